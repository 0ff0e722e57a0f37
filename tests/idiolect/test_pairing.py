"""The device's side: scanning, comparing, what is kept, and to whom it speaks."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daemon.sync.releases import ReleaseStore
from idiolect.connection import Connection, pin_of, reach, shown_key
from idiolect.errors import NotPaired, SyncError, TransferFailed, UsageError, VerificationFailed
from idiolect.pairing import Invitation, Pairing, Pairings, join, scan
from tests.daemon.sync.doors import House, house, identity, stranger
from tests.idiolect.services import lying, serving

PAIRING = Pairing(id="a" * 12, label="desk", pin="p" * 43, token="idl_" + "t" * 43, urls=("https://127.0.0.1:1",))


@contextmanager
def desktop(store: ReleaseStore, folder: Path) -> Iterator[tuple[House, str, asyncio.AbstractEventLoop]]:
    """A running server whose pairing desk the test may use, from its loop's thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    home = house(store, folder)
    try:
        ((host, port),) = asyncio.run_coroutine_threadsafe(home.server.start(), loop).result(10)
        yield home, f"{host}:{port}", loop
    finally:
        asyncio.run_coroutine_threadsafe(home.server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        home.devices.close()


def test_an_invitation_is_a_text_and_back() -> None:
    made = Invitation(
        id="a" * 12,
        addresses=("192.168.1.20:8737", "[fd00::2]:8737"),
        pin="p-_" + "p" * 40,
        secret="s-_" + "s" * 19,
        root_key="k" * 43,
    )
    assert made.uri().startswith("idiolect://pair?v=1&id=aaaaaaaaaaaa&h=192.168.1.20:8737&h=[fd00::2]:8737&pin=p-_")
    assert Invitation.parse(f" {made.uri()}\n") == made
    assert made.secret not in repr(made)
    assert PAIRING.token not in repr(PAIRING)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v=1", "v=2"),
        ("idiolect:", "https:"),
        ("&pin=", "&pon="),
        ("&s=", "&s=x&t="),
        ("h=192", "g=192"),
        ("aaaa", "AAAA"),
    ],
)
def test_not_an_invitation(old: str, new: str) -> None:
    text = Invitation(id="a" * 12, addresses=("192.168.1.20:8737",), pin="p" * 43, secret="s" * 22).uri()
    assert old in text
    with pytest.raises(UsageError, match="text of a pairing code"):
        Invitation.parse(text.replace(old, new))


def test_scanning(store: ReleaseStore, tmp_path: Path) -> None:
    with desktop(store, tmp_path) as (home, address, _):
        assert home.server.root_key != "k" * 43
        text = home.server.pairing.open(store.repo, ["127.0.0.1:1", address], "k" * 43).uri()
        paired = scan(text, label="kitchen")
        assert paired.root_key == "k" * 43  # by the code, which nobody on the network can change
        assert (paired.id, paired.label, paired.pin, paired.urls) == (
            store.repo,
            "desk",
            identity().pin,
            (f"https://{address}", "https://127.0.0.1:1"),  # the one that answered; the others may do tomorrow
        )
        device = home.devices.by_token(paired.token)
        assert device is not None
        assert (device.id, device.label) == (paired.device_id, "kitchen")
        with pytest.raises(NotPaired, match="nobody is let in now"):
            scan(text)


def test_a_scanned_code_is_shown_to_its_own_service_only(store: ReleaseStore, tmp_path: Path) -> None:
    """Somebody else at the address of the code: the secret is not sent."""
    with desktop(store, tmp_path) as (home, _, _), lying(stranger()) as other:
        text = home.server.pairing.open(store.repo, [urlsplit(other.url).netloc]).uri()
        with pytest.raises(VerificationFailed, match="does not have the key"):
            scan(text)
        assert other.requests == []


def test_comparing(store: ReleaseStore, tmp_path: Path) -> None:
    with desktop(store, tmp_path) as (home, address, loop):
        home.server.pairing.open(store.repo, [address])
        shown: list[str] = []

        def on_digits(digits: str, *, agreed: bool = True) -> None:
            shown.append(digits)
            (attempt,) = home.server.pairing.to_compare()
            assert attempt.digits == digits
            loop.call_soon_threadsafe(lambda: home.server.pairing.decide(attempt.pair_id, agreed=agreed))

        with pytest.raises(NotPaired, match="not agreed to"):
            join(f"https://{address}", lambda digits: on_digits(digits, agreed=False))
        paired = join(f"https://{address}", on_digits, label="kitchen")
        assert len(set(shown)) == 2
        assert home.devices.by_token(paired.token) is not None
        with pytest.raises(NotPaired, match="nobody is let in now"):
            join(f"https://{address}", on_digits)


def test_comparing_through_somebody_in_between(store: ReleaseStore, tmp_path: Path) -> None:
    """A relay that passes everything on has to show its own key, so the digits differ."""
    with desktop(store, tmp_path) as (home, address, _), lying(stranger()) as relay:
        home.server.pairing.open(store.repo, [address])
        true = Connection(f"https://{address}", identity().pin)

        class Relay(dict[str, object]):
            def __missing__(self, path: str) -> object:
                def answer(request: object) -> None:
                    length = int(request.headers.get("Content-Length", 0))  # type: ignore[attr-defined]
                    body = request.rfile.read(length) if length else None  # type: ignore[attr-defined]
                    with true.request(path, method="POST" if body else "GET", body=body, timeout_s=5) as passed:
                        request.send(passed.status, passed.read())  # type: ignore[attr-defined]

                return answer

        relay.answers = Relay()  # type: ignore[assignment]
        seen: list[tuple[str, str]] = []

        def on_digits(digits: str) -> None:
            (attempt,) = home.server.pairing.to_compare()
            seen.append((digits, attempt.digits))
            raise KeyboardInterrupt  # the user sees that they differ

        with pytest.raises(KeyboardInterrupt):
            join(relay.url, on_digits)
        ((phone, desk),) = seen
        assert phone != desk


def test_what_is_kept(tmp_path: Path) -> None:
    pairings = Pairings(tmp_path / "state" / "pairings")
    with pytest.raises(NotPaired, match="not paired with any service"):
        pairings.choose()
    pairings.save(PAIRING)
    (file,) = (tmp_path / "state" / "pairings").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert pairings.choose() == pairings.choose("desk") == pairings.choose("a" * 12) == PAIRING
    newer = PAIRING.known_at("https://10.0.0.1:1")
    assert newer.urls == ("https://10.0.0.1:1", "https://127.0.0.1:1")
    assert newer.known_at("https://127.0.0.1:1").urls == (*PAIRING.urls, "https://10.0.0.1:1")
    assert newer.connection() == Connection("https://10.0.0.1:1", PAIRING.pin, PAIRING.token)
    file.write_text("{}")
    with pytest.raises(SyncError, match="cannot be read"):
        pairings.all()


def test_the_key_decides_among_services(store: ReleaseStore, tmp_path: Path) -> None:
    pairings = Pairings(tmp_path / "pairings")
    with serving(store) as connection:
        pairings.save(PAIRING)
        mine = PAIRING.model_copy(update={"id": "b" * 12, "pin": connection.pin})
        pairings.save(mine)
        assert pairings.choose(url=connection.url) == mine
        assert pin_of(shown_key(connection.url, 5)) == connection.pin
        with lying(stranger()) as other, pytest.raises(NotPaired, match="not paired with https://"):
            pairings.choose(url=other.url)
    with pytest.raises(TransferFailed, match="does not answer"):
        shown_key(connection.url, 1)


def test_the_first_address_with_the_key_wins(store: ReleaseStore) -> None:
    with serving(store) as true, lying(stranger()) as other:
        done = threading.Event()

        def addresses() -> Iterator[str]:
            yield from ("https://127.0.0.1:1", other.url, true.url)
            done.wait(20)  # as one who browses the network does
            assert done.is_set()

        assert reach(true, addresses(), 5, done) == true
        assert done.is_set()
        with pytest.raises(VerificationFailed, match="does not have the key"):
            reach(true, [other.url], 5)
        with pytest.raises(TransferFailed, match="does not answer"):
            reach(true, ["https://127.0.0.1:1"], 5)
        assert other.requests == []


@pytest.mark.slow
def test_a_flood_of_addresses_is_not_followed() -> None:
    with lying(stranger()) as other:
        urls = (f"{other.url}/{number}" for number in range(5_000))
        started: list[int] = []

        def counted() -> Iterator[str]:
            for url in urls:
                started.append(threading.active_count())
                yield url

        with pytest.raises(VerificationFailed):
            reach(Connection("", identity().pin), counted(), 5)
        assert max(started) < 200


def test_a_token_is_never_in_an_address(store: ReleaseStore) -> None:
    with lying() as service:
        service.answers["/v1/x"] = lambda request: request.send(200)
        with Connection(service.url, identity().pin, PAIRING.token).request("/v1/x", timeout_s=5):
            pass
        (request,) = service.requests
        assert request.headers["Authorization"] == f"Bearer {PAIRING.token}"
        assert PAIRING.token not in request.path
        assert PAIRING.token not in repr(Connection(service.url, "pin", PAIRING.token))
