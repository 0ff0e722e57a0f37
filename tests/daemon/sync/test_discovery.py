from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys

import ifaddr
import psutil
import pytest
from zeroconf import const
from zeroconf._cache import DNSCache
from zeroconf._dns import DNSPointer
from zeroconf.asyncio import AsyncZeroconf

from daemon.sync import discovery
from daemon.sync.discovery import Advertisement, addresses, label_or_default
from idiolect.client import Service, find
from idiolect.wire import SERVICE_TYPE

pytestmark = pytest.mark.slow

REPO = "k7f3q2mzx5ab"


def anybody() -> str:
    """An id, and so a name, that nobody else on this network has, other runs of these tests among them."""
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz234567", k=12))


async def found(repo: str, timeout_s: float = 8.0) -> list[Service]:
    return await asyncio.to_thread(find, timeout_s, repo)


def test_a_flood_of_announcements_does_not_fill_the_memory() -> None:
    """What anybody on the network may send, each with another name: zeroconf keeps so many and no more."""
    cache, process = DNSCache(), psutil.Process()

    def flood(numbers: range) -> None:
        for number in numbers:
            name = f"idiolect-{number}.{SERVICE_TYPE}"
            cache.async_add_records([DNSPointer(SERVICE_TYPE, const._TYPE_PTR, const._CLASS_IN, 4500, name)])

    flood(range(20_000))
    before_bytes = process.memory_info().rss
    flood(range(20_000, 100_000))
    assert process.memory_info().rss - before_bytes < 20e6
    assert len(cache.async_entries_with_name(SERVICE_TYPE)) < 20_000


async def test_found_by_a_second_process() -> None:
    repo = anybody()
    advertisement = Advertisement(repo, f"desk of A. Person {repo}", "127.0.0.1", 8737, 42)
    assert await advertisement.start() is None
    code = f"from idiolect import find; import json; print(json.dumps([vars(s) for s in find(8, '{repo}')]))"
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
    finally:
        await advertisement.stop()
    assert json.loads(out) == [
        {"id": repo, "label": f"desk of A Person {repo}", "urls": ["https://127.0.0.1:8737"], "version": 42}
    ]


async def test_the_manifests_version_is_told() -> None:
    one_id, two_id = anybody(), anybody()
    first = Advertisement(one_id, f"attic {one_id}", "127.0.0.1", 1001, 1)
    second = Advertisement(two_id, f"cellar {two_id}", "127.0.0.1", 1002, 1)
    try:
        assert list(await asyncio.gather(first.start(), second.start())) == [None, None]
        await second.update(7)
        (one,), (two,) = await asyncio.gather(found(one_id), found(f"cellar {two_id}"))
        assert one == Service(one_id, f"attic {one_id}", ("https://127.0.0.1:1001",), 1)
        assert two == Service(two_id, f"cellar {two_id}", ("https://127.0.0.1:1002",), 7)
    finally:
        await first.stop()
        await second.stop()
    assert await found(one_id, timeout_s=1.0) == []


async def test_announced_anew_when_the_addresses_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "POLL_S", 0.1)
    monkeypatch.setattr(discovery, "addresses", lambda *_: ["127.0.0.2"])
    repo = anybody()
    advertisement = Advertisement(repo, "", "0.0.0.0", 1003, 1)
    try:
        assert await advertisement.start() is None
        monkeypatch.setattr(discovery, "addresses", lambda *_: ["127.0.0.1"])
        for _ in range(10):
            (service,) = await found(repo)
            if service.urls == ("https://127.0.0.1:1003",):
                break
        assert service.urls == ("https://127.0.0.1:1003",)
        assert service.label == f"idiolect-{repo[:4]}"
    finally:
        await advertisement.stop()


async def test_a_network_that_cannot_be_used_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_network(*_: object) -> list[str]:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(discovery, "addresses", no_network)
    advertisement = Advertisement(REPO, "", "0.0.0.0", 8737, 1)
    warning = await advertisement.start()
    assert warning is not None
    assert "idiolect pull --url" in warning
    assert warning in caplog.text
    await advertisement.update(2)
    await advertisement.stop()


async def test_a_network_without_multicast_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def first_fails(**options: object) -> AsyncZeroconf:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("Network is unreachable")
        return AsyncZeroconf(interfaces=["127.0.0.1"])

    monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", first_fails)
    monkeypatch.setattr(discovery, "POLL_S", 0.05)
    advertisement, announced = Advertisement(anybody(), "", "127.0.0.1", 8737, 1), asyncio.Event()
    advertisement.on_announced = announced.set
    assert "Network is unreachable" in str(await advertisement.start())
    await asyncio.wait_for(announced.wait(), 120)
    await advertisement.stop()


def test_addresses() -> None:
    assert addresses("127.0.0.1") == ["127.0.0.1"]
    assert addresses("192.168.1.20") == ["192.168.1.20"]
    assert addresses("localhost")[0] == "127.0.0.1"
    for address in addresses("0.0.0.0"):
        assert ":" not in address
    assert addresses("::")


def test_interfaces_that_lead_to_no_device_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def adapter(name: str, *ips: str) -> ifaddr.Adapter:
        return ifaddr.Adapter(name, name, [ifaddr.IP((ip, 0, 0) if ":" in ip else ip, 24, name) for ip in ips])

    adapters = [
        adapter("lo", "127.0.0.1"),
        adapter("eth0", "192.168.1.20", "fd00::2", "fe80::2"),
        adapter("wlan0", "10.0.0.7", "8.8.4.4"),
        *(adapter(name, "172.17.0.1") for name in ("docker0", "br-1f", "veth9", "virbr0", "wg0", "tailscale0", "tun0")),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert addresses("0.0.0.0") == ["10.0.0.7", "192.168.1.20"]
    assert addresses("::") == ["10.0.0.7", "192.168.1.20", "fd00::2"]
    assert addresses("0.0.0.0", ["eth0"]) == ["192.168.1.20"]
    assert addresses("0.0.0.0", ["wg0"]) == ["172.17.0.1"]
    assert addresses("0.0.0.0", ["eth9"]) == ["127.0.0.1"]
    assert addresses("192.168.1.20", ["wlan0"]) == ["192.168.1.20"]


async def test_an_interface_that_comes_up_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that were seen once are not announced: one that flickers would make the service come and go."""
    monkeypatch.setattr(discovery, "POLL_S", 0.05)
    seen = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"], ["127.0.0.1"]]
    monkeypatch.setattr(discovery, "addresses", lambda *_: seen.pop(0) if len(seen) > 1 else seen[0])
    advertisement = Advertisement(anybody(), "", "0.0.0.0", 1004, 1)
    try:
        assert await advertisement.start() is None
        first = advertisement._zeroconf
        while len(seen) > 1:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert advertisement._zeroconf is first
    finally:
        await advertisement.stop()


async def test_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly these keys, short enough for one packet, and neither this machine's nor its user's name."""
    from zeroconf import Zeroconf

    repo = anybody()
    advertisement = Advertisement(repo, "", "127.0.0.1", 8737, 2**53 - 1, plain_port=8738)
    try:
        assert await advertisement.start() is None
        zeroconf = Zeroconf(interfaces=["127.0.0.1"])
        name = f"idiolect-{repo[:4]}.{SERVICE_TYPE}"
        info = await asyncio.to_thread(zeroconf.get_service_info, SERVICE_TYPE, name, 5000)
        zeroconf.close()
        assert info is not None
        assert info.decoded_properties == {
            "txtvers": "1",
            "id": repo,
            "api": "1",
            "mv": str(2**53 - 1),
            "tls": "1",
            "hp": "8738",
        }
        assert len(info.text) < 400
        assert info.server == f"{repo}.local."
        assert socket.gethostname() not in f"{info.name} {info.server} {info.text!r}".replace(repo, "")
    finally:
        await advertisement.stop()


async def test_a_service_without_tls_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    repo = anybody()
    monkeypatch.setattr(Advertisement, "_texts", lambda self: {"txtvers": "1", "id": repo, "api": "1", "mv": "1"})
    advertisement = Advertisement(repo, "", "127.0.0.1", 8737, 1)
    try:
        assert await advertisement.start() is None
        assert await found(repo, timeout_s=2.0) == []
    finally:
        await advertisement.stop()


def test_labels() -> None:
    assert label_or_default("", REPO) == "idiolect-k7f3"
    assert label_or_default(" \n\x00 ", REPO) == "idiolect-k7f3"
    assert label_or_default("Küche", REPO) == "Küche"
    assert label_or_default("A. Person's\tdesk.local", REPO) == "A Person's desk local"
    long = label_or_default("ü" * 80, REPO)
    assert len(long.encode()) == 62
