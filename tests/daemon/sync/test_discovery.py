from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from daemon.sync import discovery
from daemon.sync.discovery import Advertisement, addresses, label_or_default
from idiolect.client import Service, find

REPO = "k7f3q2mzx5ab"


async def found(repo: str = REPO, timeout_s: float = 8.0) -> list[Service]:
    return await asyncio.to_thread(find, timeout_s, repo)


async def test_found_by_a_second_process() -> None:
    advertisement = Advertisement(REPO, "desk of A. Person", "127.0.0.1", 8737, 42)
    assert await advertisement.start() is None
    code = f"from idiolect import find; import json; print(json.dumps([vars(s) for s in find(8, '{REPO}')]))"
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
    finally:
        await advertisement.stop()
    assert json.loads(out) == [
        {"id": REPO, "label": "desk of A Person", "urls": ["http://127.0.0.1:8737"], "version": 42}
    ]


async def test_the_manifests_version_is_told_and_names_may_collide() -> None:
    label = f"desk of {os.getpid()}"  # other tests may run on this machine
    first = Advertisement("a" * 12, label, "127.0.0.1", 1001, 1)
    second = Advertisement("b" * 12, label, "127.0.0.1", 1002, 1)
    try:
        assert await first.start() is None
        assert await second.start() is None
        await second.update(7)
        (one,), (two,) = await asyncio.gather(found("a" * 12), found("b" * 12))
        assert (one.label, one.version, one.urls) == (label, 1, ("http://127.0.0.1:1001",))
        assert (two.label, two.version, two.urls) == (f"{label}-2", 7, ("http://127.0.0.1:1002",))
        assert await found(f"{label}-2") == [two]
    finally:
        await first.stop()
        await second.stop()
    assert await found("a" * 12, timeout_s=1.0) == []


async def test_announced_anew_when_the_addresses_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "POLL_S", 0.1)
    monkeypatch.setattr(discovery, "addresses", lambda _: ["127.0.0.2"])
    advertisement = Advertisement("c" * 12, "", "0.0.0.0", 1003, 1)
    try:
        assert await advertisement.start() is None
        monkeypatch.setattr(discovery, "addresses", lambda _: ["127.0.0.1"])
        for _ in range(10):
            (service,) = await found("c" * 12)
            if service.urls == ("http://127.0.0.1:1003",):
                break
        assert service.urls == ("http://127.0.0.1:1003",)
        assert service.label == "idiolect-cccc"
    finally:
        await advertisement.stop()


async def test_a_network_that_cannot_be_used_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_network(_: str) -> list[str]:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(discovery, "addresses", no_network)
    advertisement = Advertisement(REPO, "", "0.0.0.0", 8737, 1)
    warning = await advertisement.start()
    assert warning is not None
    assert "idiolect pull --url" in warning
    assert warning in caplog.text
    await advertisement.update(2)
    await advertisement.stop()


def test_addresses() -> None:
    assert addresses("127.0.0.1") == ["127.0.0.1"]
    assert addresses("192.168.1.20") == ["192.168.1.20"]
    assert addresses("localhost")[0] == "127.0.0.1"
    for address in addresses("0.0.0.0"):
        assert ":" not in address
    assert addresses("::")


def test_labels() -> None:
    assert label_or_default("", REPO) == "idiolect-k7f3"
    assert label_or_default(" \n\x00 ", REPO) == "idiolect-k7f3"
    assert label_or_default("Küche", REPO) == "Küche"
    assert label_or_default("A. Person's\tdesk.local", REPO) == "A Person's desk local"
    long = label_or_default("ü" * 80, REPO)
    assert len(long.encode()) == 62
