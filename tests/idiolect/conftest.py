"""A release store, its service and a model folder, as the client meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.sync.releases import ReleaseStore
from idiolect import fetch
from idiolect.connection import Connection
from idiolect.pairing import Pairing, Pairings
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.pulls import SIZE
from tests.idiolect.services import LyingService, lying, serving


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store")


@pytest.fixture
def connection(store: ReleaseStore) -> Iterator[Connection]:
    """The way to the service, whom this test's user is paired with."""
    with serving(store) as connection:
        mine = Pairing(
            id=store.repo, label="desk", pin=connection.pin, token=connection.token, root_key=store.keys.root_key
        )
        Pairings().save(mine)
        yield connection


@pytest.fixture
def url(connection: Connection) -> str:
    return connection.url


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairings of a test are its own."""
    monkeypatch.setenv("IDIOLECT_HOME", str(tmp_path / "home"))


@pytest.fixture
def publish(store: ReleaseStore, tmp_path: Path) -> Callable[..., bytes]:
    """Publish a model made from a seed; gives its bytes."""

    def publish(*seeds: int, tier: str = "tiny", size_bytes: int = SIZE) -> bytes:
        store.publish(candidate(tmp_path / "jobs", *seeds, tier=tier, size_bytes=size_bytes))
        return model_bytes(seeds[0], size_bytes)

    return publish


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "models" / "current"


@pytest.fixture
def liar(url: str) -> Iterator[LyingService]:
    """Says what a test tells it to."""
    with lying() as service:
        yield service
