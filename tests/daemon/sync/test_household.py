"""Letting in and shutting out, as the commands do it: through the control socket of a daemon that lives."""

from __future__ import annotations

import asyncio
import html
import json
import stat
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.control import ask
from idiolect import fetch
from idiolect.connection import Connection
from idiolect.errors import NotPaired, UsageError
from idiolect.pairing import Pairing, Pairings, join, scan
from tests.daemon.homes import CONFIG, changed, living, pipeline
from tests.daemon.sync.publishing import candidate


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.at(tmp_path / "home")


@pytest.fixture
async def daemon(paths: Paths) -> AsyncIterator[Daemon]:
    config = changed(CONFIG, server={"label": "desk"})
    async with living(Daemon(paths, config, pipeline=pipeline("good"))) as daemon:
        yield daemon


async def asked(paths: Paths, command: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    return await asyncio.to_thread(ask, paths, command, **arguments)


async def status(connection: Connection) -> int:
    reply = await asyncio.to_thread(fetch.get, connection, "/v1/manifest", limit_bytes=1000, timeout_s=5.0)
    return reply.status


async def test_a_phone_is_let_in_and_shut_out(daemon: Daemon, paths: Paths) -> None:
    opened = await asked(paths, "pair", action="open")
    assert (opened["open"], opened["asking"], opened["paired"]) == (True, [], None)
    assert 290 < opened["left_s"] <= 300
    phone = await asyncio.to_thread(scan, opened["uri"], label="phone")
    assert phone.label == "desk"
    seen = await asked(paths, "pair", action="look")
    assert (seen["open"], seen["paired"]["label"]) == (False, "phone")
    assert await status(phone.connection()) == 404  # let in, and nothing published
    listed = (await asked(paths, "devices"))["devices"]
    assert [device["label"] for device in listed] == ["this computer", "phone"]
    assert phone.token not in json.dumps(listed)
    assert (await asked(paths, "revoke", name="phone"))["device"]["id"] == phone.device_id
    assert await status(phone.connection()) == 401
    with pytest.raises(UsageError, match="no device is called 'phone'"):
        await asked(paths, "revoke", name="phone")


async def test_the_code_is_on_a_page_until_somebody_is_let_in(
    daemon: Daemon, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.sync.page.LOOK_S", 0.02)
    opened = await asked(paths, "pair", action="open")

    def page() -> str:
        with urllib.request.urlopen(opened["page"], timeout=120) as response:
            return str(response.read().decode())

    assert html.escape(opened["uri"]) in await asyncio.to_thread(page)
    phone = await asyncio.to_thread(scan, opened["uri"], label="phone")
    await asyncio.sleep(0.2)
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(page)
    store = daemon._rooms.store
    await asyncio.to_thread(store.publish, candidate(tmp_path))
    store.pin(phone.device_id, "r-0001")
    await asked(paths, "revoke", name="phone")
    assert store.manifest is not None
    assert (store.version, store.manifest.pins) == (3, None)  # nothing is kept for who was shut out


async def test_digits_are_compared(daemon: Daemon, paths: Paths) -> None:
    opened = await asked(paths, "pair", action="open")
    shown: list[str] = []
    joining = asyncio.create_task(asyncio.to_thread(join, opened["urls"][0], shown.append, label="laptop"))
    for _ in range(100):
        seen = await asked(paths, "pair", action="look")
        if seen["asking"]:
            break
        await asyncio.sleep(0.05)
    (asking,) = seen["asking"]
    assert asking["label"] == "laptop"
    await asked(paths, "pair", action="decide", pair_id=asking["pair_id"], agreed=True)
    laptop = await joining
    assert shown == [asking["digits"]]
    assert await status(laptop.connection()) == 404
    with pytest.raises(UsageError, match="no longer waits"):
        await asked(paths, "pair", action="decide", pair_id=asking["pair_id"], agreed=True)


async def test_closing_the_window(daemon: Daemon, paths: Paths) -> None:
    opened = await asked(paths, "pair", action="open")
    assert not (await asked(paths, "pair", action="close"))["open"]
    with pytest.raises(NotPaired, match="nobody is let in now"):
        await asyncio.to_thread(scan, opened["uri"])
    for action in ("", "shut", "__init__"):
        with pytest.raises(UsageError, match="no such step"):
            await asked(paths, "pair", action=action)
    with pytest.raises(UsageError, match=r"plain_port = 8738"):
        await asked(paths, "pair", action="plain", label="app")


async def test_this_computer_needs_no_pairing_and_stays_the_same_device(paths: Paths) -> None:
    kept: list[Pairing] = []
    for _ in range(2):
        async with living(Daemon(paths, CONFIG, pipeline=pipeline("good"))):
            kept.append(Pairings(paths.pairings).choose())
            assert await status(kept[-1].connection()) == 404
    assert kept[0].token == kept[1].token
    assert kept[0].urls != kept[1].urls  # another port, which was written down
    (file,) = paths.pairings.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    async with living(Daemon(paths, CONFIG, pipeline=pipeline("good"))):
        again = Pairings(paths.pairings).choose()
        assert await status(again.connection()) == 404
        assert await status(Connection(again.urls[0], again.pin, kept[0].token)) == 401
        states = [device["revoked_s"] is None for device in (await asked(paths, "devices"))["devices"]]
        assert states == [False, True]


async def test_nothing_is_readable_for_others_and_no_token_is_in_the_log(paths: Paths) -> None:
    async with living(Daemon(paths, CONFIG, pipeline=pipeline("good"))):
        phone = await asyncio.to_thread(scan, (await asked(paths, "pair", action="open"))["uri"])
        assert await status(phone.connection()) == 404
        assert await status(Connection(phone.urls[0], phone.pin, "idl_" + "x" * 43)) == 401
        (local,) = Pairings(paths.pairings).all()
        assert stat.S_IMODE(paths.state.stat().st_mode) == 0o700
        for pattern in ("keys/*", "pairings/*", "*.sqlite3*", "*.log", "*.sock", "store/repo_id"):
            found = list(paths.state.glob(pattern))
            assert [stat.S_IMODE(path.lstat().st_mode) for path in found] == [0o600] * len(found)
            assert found or pattern == "*.sock", pattern  # that lies elsewhere where this path is too long for one
    everything = b"".join(path.read_bytes() for path in paths.state.rglob("*") if path.is_file())
    assert phone.token.encode() not in everything
    assert everything.count(local.token.encode()) == 1  # in this user's own pairing
