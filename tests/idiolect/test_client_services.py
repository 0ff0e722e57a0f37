"""Which service the client asks, and what it tells another."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.sync.discovery import Advertisement
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from idiolect import client as client_module
from idiolect.client import Client, Service, find
from idiolect.connection import Connection
from idiolect.errors import (
    NotPaired,
    ServiceNotFound,
    SyncError,
    TransferFailed,
    UsageError,
    VerificationFailed,
)
from idiolect.pairing import Pairing, Pairings
from tests.daemon.sync.doors import house, identity, stranger
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.pulls import hidden
from tests.idiolect.services import lying, through_a_cable

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.slow
async def test_found_by_itself(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    port = port_of(url)
    advertisement = Advertisement(store.repo, "", "127.0.0.1", port, 1)
    assert await advertisement.start() is None
    try:
        pulled = await asyncio.to_thread(Client(into, "android-futo", service=store.repo).pull)
        assert (pulled.release_id, pulled.url) == ("r-0001", url)
        publish(2)
        # From now on it is the one service that counts, whoever else is there.
        assert (await asyncio.to_thread(Client(into, "android-futo").pull)).release_id == "r-0002"
    finally:
        await advertisement.stop()
    publish(3)
    # No announcement any more: the address that was good last time.
    assert (await asyncio.to_thread(Client(into, "android-futo", timeout_s=1.0).pull)).release_id == "r-0003"
    assert Pairings().all()[0].urls == (url,)


@pytest.mark.slow
async def test_the_service_moves_in_the_middle_of_a_transfer(store: ReleaseStore, tmp_path: Path, into: Path) -> None:
    """Another address, found by its announcement: what had come is kept."""
    size_bytes = 3_000_000
    store.publish(candidate(tmp_path / "made", 1, size_bytes=size_bytes))
    home = house(store, tmp_path / "desk")
    moved = Server(store, identity(), home.devices, Door("desk", "127.0.0.1", 0))
    advertisement: Advertisement | None = None
    try:
        ((_, port),) = await home.server.start()
        Pairings().save(
            Pairing(
                id=store.repo,
                pin=identity().pin,
                token=home.token,
                root_key=store.keys.root_key,
                urls=(f"https://127.0.0.1:{port}",),
            )
        )
        with through_a_cable(f"https://127.0.0.1:{port}") as cable:
            cable.cuts = [1 << 40, 1 << 40, 1_000_000, *[0] * 20]  # the manifest, its root, the model
            with pytest.raises(TransferFailed):
                await asyncio.to_thread(Client(into, "android-futo", url=cable.url).pull)
        await home.server.stop()
        (part,) = (hidden(into) / "parts").iterdir()
        kept = part.stat().st_size
        ((_, port),) = await moved.start()
        advertisement = Advertisement(store.repo, "", "127.0.0.1", port, 1)
        assert await advertisement.start() is None
        told: list[int] = []
        pulled = await asyncio.to_thread(Client(into, "android-futo").pull, lambda done, _: told.append(done))
        assert pulled.url == f"https://127.0.0.1:{port}"
        assert pulled.files[0].read_bytes() == model_bytes(1, size_bytes)
        assert told[0] > kept > 0
    finally:
        if advertisement is not None:
            await advertisement.stop()
        await home.server.stop()
        await moved.stop()
        home.devices.close()


def _announced(monkeypatch: pytest.MonkeyPatch, *services: Service) -> None:
    monkeypatch.setattr(client_module, "browse", lambda is_wanted: iter(services))


@pytest.mark.slow
def test_the_first_address_that_has_the_key(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Announced under the service's name: nobody, a program that speaks no TLS, one with another key, the true one."""
    publish(1)
    with socket.create_server(("127.0.0.1", 0)) as silent, lying(stranger()) as other:
        port = silent.getsockname()[1]
        urls = ("https://127.0.0.1:1", f"https://127.0.0.1:{port}", other.url)

        def browse(_: object) -> Iterator[Service]:
            yield Service(store.repo, "desk", urls, 1)
            time.sleep(1.0)  # the true one is heard last
            yield Service(store.repo, "desk", (url,), 1)

        monkeypatch.setattr(client_module, "browse", browse)
        assert Client(into, "android-futo").pull().url == url
        assert other.requests == []
        (pairing,) = Pairings().all()
        assert pairing.urls == (url,)
        _announced(monkeypatch)
        assert Client(into.with_name("other"), "android-futo").pull().url == url


@pytest.mark.slow
async def test_somebody_else_announces_himself_under_its_name(
    store: ReleaseStore, connection: Connection, publish: Callable[..., bytes], into: Path
) -> None:
    """Over the network: the impostor first, who says goodbye for the other as well; then the true one at a new port."""
    publish(1)
    (mine,) = Pairings().all()
    Pairings().save(mine.model_copy(update={"urls": ("https://127.0.0.1:1",)}))
    client = Client(into, "android-futo")
    with lying(stranger()) as other:
        impostor = Advertisement(store.repo, f"impostor {store.repo}", "127.0.0.1", port_of(other.url), 99)
        true = Advertisement(store.repo, f"true {store.repo}", "127.0.0.1", port_of(connection.url), 1)
        try:
            assert await impostor.start() is None
            with pytest.raises(SyncError):
                await asyncio.to_thread(Client(into, "android-futo", timeout_s=2.0).pull)
            assert await true.start() is None
            assert (await asyncio.to_thread(client.pull)).url == connection.url
            await impostor.stop()
            publish(2)
            assert (await asyncio.to_thread(client.pull)).release_id == "r-0002"
        finally:
            await impostor.stop()
            await true.stop()
        assert other.requests == []


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_another_key_is_told_nothing(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    with lying(stranger()) as other:
        with pytest.raises(VerificationFailed, match="does not have the key pinned at pairing"):
            Client(into, "android-futo", url=other.url).pull()
        assert other.requests == []
    with pytest.raises(UsageError, match="not the address of a service"):
        Client(into, "android-futo", url=url.replace("https", "http")).pull()


def test_which_service(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    _announced(monkeypatch)
    (mine,) = Pairings().all()
    Pairings().save(mine.model_copy(update={"id": "2" * 12, "label": "attic", "pin": stranger().pin}))
    with pytest.raises(UsageError, match=rf"several services: attic \(222222222222\), desk \({mine.id}\)") as several:
        Client(into, "android-futo").pull()
    assert "--service" in several.value.hint
    with pytest.raises(ServiceNotFound, match="no address of the service is known"):
        Client(into, "android-futo", service="attic", timeout_s=0.5).pull()
    with pytest.raises(NotPaired, match="not paired with cellar") as nobody:
        Client(into, "android-futo", service="cellar").pull()
    assert "idiolect pair" in nobody.value.hint
    assert Client(into, "android-futo", url=url).pull().release_id == "r-0001"  # known by its key
    Pairings().save(mine.model_copy(update={"id": "b" * 12, "label": "attic"}))
    with pytest.raises(VerificationFailed, match=f"root 1 of bbbbbbbbbbbb was wanted, this is root 1 of {store.repo}"):
        Client(into.with_name("other"), "android-futo", service="b" * 12, url=url).pull()


def test_a_device_that_was_shut_out(
    connection: Connection, publish: Callable[..., bytes], into: Path, store: ReleaseStore
) -> None:
    first = publish(1)
    client = Client(into, "android-futo", url=connection.url)
    client.pull()
    Pairings().save(Pairing(id=store.repo, pin=connection.pin, token="idl_" + "x" * 43))
    with pytest.raises(NotPaired, match="no longer lets this device in"):
        client.pull()
    assert (into / "idiolect-tiny-android-futo.bin").read_bytes() == first


def test_nobody_is_found_in_time() -> None:
    started = time.monotonic()
    assert find(0.3, "nobody here") == []
    assert time.monotonic() - started < 30
