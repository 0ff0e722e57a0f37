"""A release store and its server, as devices meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.sync.devices import READ
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from tests.daemon.sync.doors import Ask, House, PlainHouse, asking, client_tls, house


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store")


@pytest.fixture
async def home(store: ReleaseStore, tmp_path: Path) -> AsyncIterator[House]:
    home = house(store, tmp_path)
    yield home
    await home.server.stop()
    home.devices.close()


@pytest.fixture
def server(home: House) -> Server:
    return home.server


@pytest.fixture
async def ask(home: House) -> Ask:
    """Ask the started server."""
    ((host, port),) = await home.server.start()
    return asking(home, host, port, client_tls())


@pytest.fixture
def plain_door() -> Door:
    return Door("desk", "127.0.0.1", 0, plain_port=0)


@pytest.fixture
async def plain(store: ReleaseStore, tmp_path: Path, plain_door: Door) -> AsyncIterator[PlainHouse]:
    """A started server with its compatibility port, and a token for it."""
    home = house(store, tmp_path, plain_door)
    await home.server.start()
    port = home.server.plain_port
    assert port is not None
    _, token = home.devices.add("app", "plain", frozenset({READ}), compat=True)
    ask = asking(House(home.server, home.devices, token), "127.0.0.1", port, None)
    yield PlainHouse(home, f"http://127.0.0.1:{port}", token, ask)
    await home.server.stop()
    home.devices.close()
