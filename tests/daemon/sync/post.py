"""A server that takes recordings, as tests meet it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.sync.devices import READ, RECORD, Device, Devices
from daemon.sync.inbox import Inbox, Quota
from daemon.sync.recordings import Recordings
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from tests.daemon.sync.doors import Answer, House, identity
from tests.training.samples import sound, write_encoded, write_wav

ROOMY = Quota(free_bytes=0)


@dataclass
class Post:
    """`phone` is let in with `house.token`; what is taken in lands below `folder`."""

    house: House
    inbox: Inbox
    phone: Device
    folder: Path
    store: ReleaseStore
    loop: asyncio.AbstractEventLoop | None = None

    async def stop(self) -> None:
        """Close everything."""
        await self.house.server.stop()
        self.house.devices.close()
        self.inbox.close()


def post(home: Path, quota: Quota = ROOMY) -> Post:
    """A server that has yet to be started, all of it below `home`; one that was there before is opened again."""
    home.mkdir(parents=True, exist_ok=True)
    devices = Devices(home / "devices.sqlite3")
    phone, token = devices.add("phone", "android", frozenset({READ, RECORD}))
    inbox = Inbox(home / "inbox", home / "recordings", quota)
    door = Door("desk", "127.0.0.1", 0)
    store = ReleaseStore(home / "store", identity().id)
    server = Server(store, identity(), devices, door, Recordings(inbox).routes())
    return Post(House(server, devices, token), inbox, phone, home / "recordings", store)


@contextlib.contextmanager
def posting(home: Path) -> Iterator[Post]:
    """The same, started, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Post:
        at = post(home)
        await at.house.server.start()
        at.loop = loop
        return at

    try:
        at = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        try:
            yield at
        finally:
            asyncio.run_coroutine_threadsafe(at.stop(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def place(data: bytes) -> str:
    """Where a recording is put."""
    return f"/v1/recordings/{hashlib.sha256(data).hexdigest()}"


def state(answer: Answer) -> str:
    """What an answer says became of a recording."""
    return str(json.loads(answer[2])["state"])


def wav(folder: Path, seconds: float = 1.0, seed: int = 0) -> bytes:
    """A recording as a phone sends it."""
    return write_wav(folder / "sent.wav", sound(seconds, seed=seed)).read_bytes()


def flac(folder: Path, seconds: float = 1.0, seed: int = 0) -> bytes:
    """Another kind."""
    return write_encoded(folder / "sent.flac", sound(seconds, seed=seed), "flac").read_bytes()


def files(folder: Path) -> list[str]:
    """Every file below a folder, but the database."""
    found = (path for path in folder.rglob("*") if path.is_file() and "sqlite3" not in path.name)
    return sorted(path.relative_to(folder).as_posix() for path in found)


async def until_idle(post: Post) -> None:
    """Nothing is on its way in any more."""
    async with asyncio.timeout(600):
        while any(post.inbox.arriving.iterdir()):
            await asyncio.sleep(0.05)
