"""A release store and its server, as devices meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Server
from tests.daemon.sync.doors import Ask, House, asking, client_tls, house


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
