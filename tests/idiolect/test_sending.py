"""Recordings from another computer, sent to the real server; and services that lie or fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from idiolect import sending
from idiolect.errors import NotPaired, SyncError, TransferFailed, UsageError, VerificationFailed
from idiolect.pairing import Pairing, Pairings
from idiolect.sending import RecordingMeta, Sender, text_beside
from tests.daemon.sync.doors import identity, stranger
from tests.daemon.sync.post import Post, posting, wav
from tests.idiolect.services import LyingService, Request, lying, through_a_cable


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Post]:
    with posting(tmp_path / "home") as at:
        yield at


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LONGEST_PAUSE_S", 0.01)


def pairing(url: str, token: str = "idl_" + "x" * 43) -> Pairing:
    return Pairing(id=identity().id, pin=identity().pin, token=token, urls=(url,))


def url(at: Post) -> str:
    return f"https://127.0.0.1:{at.house.server.port}"


@pytest.fixture
def sender(at: Post) -> Sender:
    return Sender(pairing(url(at), at.house.token))


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.wav"
    path.write_bytes(wav(tmp_path))
    return path


@pytest.mark.slow
def test_sending_and_sending_again(at: Post, sender: Sender, note: Path) -> None:
    assert sender.send(note).state == "waiting"
    received = sender.send(note, RecordingMeta(text="call mum", lang="en"))
    assert (received.state, received.duration_s) == ("waiting", 1.0)
    assert received.sha256 == hashlib.sha256(note.read_bytes()).hexdigest()
    (kept,) = at.inbox.all()
    assert kept.meta is not None
    assert kept.meta.text == "call mum"
    at.inbox.take(1)
    assert sender.send(note, RecordingMeta(text="call mum", lang="en")).state == "taken"
    with pytest.raises(SyncError, match="another text"):
        sender.send(note, RecordingMeta(text="call dad"))


@pytest.mark.slow
def test_what_is_there_is_not_sent_again(at: Post, note: Path, tmp_path: Path) -> None:
    with through_a_cable(url(at)) as cable:
        sender = Sender(pairing(cable.url, at.house.token))
        sender.send(note)
        sender.send(note)
        methods = [request.split()[0] for request in cable.requests if request]
    assert methods.count(b"PUT") == 1


@pytest.mark.slow
def test_a_connection_that_breaks(at: Post, note: Path) -> None:
    with through_a_cable(url(at)) as cable:
        cable.cuts = [1 << 20, 1 << 20, 0, 10]
        assert Sender(pairing(cable.url, at.house.token)).send(note).state == "waiting"
    assert len(at.inbox.all()) == 1


def test_a_device_that_was_shut_out(at: Post, sender: Sender, note: Path) -> None:
    at.house.server.revoke("phone")
    with pytest.raises(NotPaired):
        sender.send(note)


def test_what_the_service_does_not_want(sender: Sender, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    with pytest.raises(SyncError, match=r"bad\.wav was not taken: not audio"):
        sender.send(bad)


def test_what_cannot_be_sent(sender: Sender, tmp_path: Path) -> None:
    empty, big = tmp_path / "empty.wav", tmp_path / "big.wav"
    empty.touch()
    with big.open("wb") as file:
        file.truncate(sending.MAX_RECORDING_BYTES + 1)
    for path, said in (
        (empty, "is empty"),
        (big, "26214401 bytes"),
        (tmp_path / "none.wav", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(UsageError, match=said):
            sender.send(path)


def test_another_machine_is_told_nothing(note: Path) -> None:
    with lying(stranger()) as service, pytest.raises(VerificationFailed, match="another machine"):
        Sender(pairing(service.url), url=service.url).send(note)
    assert service.requests == []


def _of(service: LyingService, note: Path) -> str:
    return f"/v1/recordings/{hashlib.sha256(note.read_bytes()).hexdigest()}"


def test_a_busy_service_is_asked_again_and_not_for_ever(note: Path) -> None:
    with lying() as service:
        answers = iter([(503, b"{}"), (429, b"{}"), (200, b'{"sha256": "x", "state": "waiting", "duration_s": 1.0}')])

        def busy(request: Request) -> None:
            status, body = next(answers)
            request.send(status, body, Retry_After="1")

        service.answers[_of(service, note)] = busy
        assert Sender(pairing(service.url), url=service.url).send(note).state == "waiting"
        service.answers[_of(service, note)] = lambda request: request.send(503, b"{}", Retry_After="999999999")
        with pytest.raises(SyncError, match="was not taken"):
            Sender(pairing(service.url), url=service.url).send(note)
        assert len(service.requests) == 3 + sending.TRIES


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b'{"state": "fine"}', b"\xff"])
def test_a_service_that_speaks_otherwise(note: Path, body: bytes) -> None:
    with lying() as service:
        service.answers[_of(service, note)] = lambda request: request.send(200, body)
        with pytest.raises(VerificationFailed):
            Sender(pairing(service.url), url=service.url).send(note)
        service.answers[_of(service, note)] = lambda request: request.send(400, json.dumps(["x"]).encode())
        with pytest.raises(SyncError, match="answer 400"):
            Sender(pairing(service.url), url=service.url).send(note)


def test_nobody_there(note: Path) -> None:
    with pytest.raises(TransferFailed, match="does not answer"):
        Sender(pairing("https://127.0.0.1:9"), url="https://127.0.0.1:9", timeout_s=1.0).send(note)


@pytest.mark.slow
def test_the_address_that_works_is_kept(at: Post, note: Path, tmp_path: Path) -> None:
    known = Pairing(id=identity().id, pin=identity().pin, token=at.house.token, urls=("https://127.0.0.1:9", url(at)))
    assert Sender(known).send(note).state == "waiting"
    assert Pairings().all()[0].urls[0] == url(at)


def test_texts_beside_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert text_beside(path) is None
    path.with_suffix(".txt").write_bytes("\ufeffcall\r\nmum\n".encode())
    assert text_beside(path) == RecordingMeta(text="call\nmum\n")
    path.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhi\n")
    found = text_beside(path)
    assert found is not None
    assert found.format == "srt"
    for data, said in ((b"\xff\xfe", "not UTF-8"), (b"a\x00b", "pattern"), (b"", "at least 1")):
        path.with_suffix(".srt").write_bytes(data)
        with pytest.raises(UsageError, match=said):
            text_beside(path)
