from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from idiolect import watch as watching
from idiolect.client import Client, Pulled
from idiolect.errors import NotPaired, SyncError
from idiolect.pairing import Pairings
from idiolect.watch import watch
from tests.idiolect.services import through_a_cable


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SHORTEST_ROUND_S", 0.01)


def test_every_release_as_it_comes(url: str, publish: Callable[..., bytes], into: Path) -> None:
    """Without anything that tells the service's waiters, so that each round ends by itself."""
    publish(1)
    seen: list[str] = []

    def pulled(now: Pulled) -> None:
        seen.append(now.release_id)
        if len(seen) < 3:
            publish(len(seen) + 1)

    with through_a_cable(url) as cable:
        watch(Client(into, "android-futo", url=cable.url), pulled, lambda *_: None, lambda: len(seen) < 3)
        assert any(b"Prefer: wait=25" in request for request in cable.requests)
    assert seen == ["r-0001", "r-0002", "r-0003"]


def test_what_is_there_is_told_at_once(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    Client(into, "android-futo", url=url).pull()
    seen: list[bool] = []
    with through_a_cable(url) as cable:
        watch(
            Client(into, "android-futo", url=cable.url),
            lambda now: seen.append(now.changed),
            lambda *_: None,
            lambda: not seen,
        )
        assert b"If-None-Match" in cable.requests[0]
        assert b"Prefer" not in cable.requests[0]
    assert seen == [False]


@pytest.mark.slow
def test_it_goes_on_after_trouble(url: str, publish: Callable[..., bytes], into: Path) -> None:
    seen: list[Pulled] = []
    troubles: list[float] = []

    def trouble(error: SyncError, pause_s: float) -> None:
        assert "nothing has been published" in error.message
        troubles.append(pause_s)
        if len(troubles) == 2:
            publish(1)

    watch(Client(into, "android-futo", url=url), seen.append, trouble, lambda: not seen)
    assert troubles == [1.0, 2.0]
    assert seen[0].release_id == "r-0001"


def test_shut_out_it_ends(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    (mine,) = Pairings().all()
    Pairings().save(mine.model_copy(update={"token": "idl_" + "x" * 43}))
    with pytest.raises(NotPaired):
        watch(Client(into, "android-futo", url=url), lambda _: None, lambda *_: None)


def test_one_watch_at_a_time(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    tried: list[SyncError] = []

    def second(_: Pulled) -> None:
        with pytest.raises(SyncError, match=r"another pull into .* is under way") as caught:
            watch(Client(into, "android-futo", url=url), lambda _: None, lambda *_: None)
        tried.append(caught.value)

    watch(Client(into, "android-futo", url=url), second, lambda *_: None, lambda: not tried)
    assert Client(into, "android-futo", url=url).pull().release_id == "r-0001"


@pytest.mark.slow
def test_a_round_waits_for_news(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    client.pull()
    began = time.monotonic()
    assert not client.pull(wait_s=1.0).changed
    assert 0.9 < time.monotonic() - began < 20
