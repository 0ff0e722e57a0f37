from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.sync.releases import ReleaseStore
from idiolect import fetch
from idiolect.connection import Connection
from idiolect.errors import NotPaired, TransferFailed, UsageError, VerificationFailed
from idiolect.wire import ArtifactFile
from tests.daemon.sync.doors import identity
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.services import Answer, Cable, LyingService, Request, lying, serving, through_a_cable

SIZE = 3_000_000
MODEL = model_bytes(1, SIZE)
FILE = ArtifactFile(
    path="m.bin", size_bytes=SIZE, sha256=hashlib.sha256(MODEL).hexdigest(), magic=MODEL[:4].hex(), role="model"
)
BLOB = f"/v1/blobs/sha256:{FILE.sha256}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.001)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service's address; whoever uses it through `to` shows the token of its one device."""
    folder = tmp_path_factory.mktemp("served")
    store = ReleaseStore(folder / "store")
    store.publish(candidate(folder, 1, size_bytes=SIZE))
    with serving(store) as connection:
        _TOKENS.append(connection.token)
        yield connection.url


@pytest.fixture
def cable(url: str) -> Iterator[Cable]:
    with through_a_cable(url) as cable:
        yield cable


@pytest.fixture
def liar() -> Iterator[LyingService]:
    with lying() as service:
        yield service


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "m.part"


_TOKENS = [""]


def to(url: str) -> Connection:
    """The service at `url`, or who has its key there."""
    return Connection(url, identity().pin, _TOKENS[-1])


def pull(url: str, part: Path, on_busy: fetch.OnBusy | None = None) -> list[int]:
    sizes: list[int] = []
    fetch.download(to(url), FILE, part, timeout_s=2.0, on_bytes=sizes.append, on_busy=on_busy)
    assert part.read_bytes() == MODEL
    return sizes


def test_whole(cable: Cable, part: Path) -> None:
    sizes = pull(cable.url, part)
    assert sizes == sorted(sizes)
    assert sizes[-1] == SIZE
    assert b"Range" not in cable.requests[0]
    assert b"Accept-Encoding: identity" in cable.requests[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_cable_that_breaks_at_random_offsets(cable: Cable, part: Path, seed: int, reset: bool) -> None:
    cable.reset = reset
    cable.cuts = [random.Random(seed).randrange(0, SIZE // 4) for _ in range(10)]
    pull(cable.url, part)
    assert len(cable.requests) > 3
    if not reset:  # then no byte came twice: what is more than the file are the heads of the answers
        assert f'If-Range: "sha256:{FILE.sha256}"'.encode() in cable.requests[-1]
        assert cable.answer_bytes < SIZE + 1_000 * len(cable.requests)


@pytest.mark.parametrize("kept", [0, 1, 3, 1_000_000, SIZE - 1, SIZE])
def test_goes_on_where_it_ended(cable: Cable, part: Path, kept: int) -> None:
    part.write_bytes(MODEL[:kept])
    pull(cable.url, part)
    assert len(cable.requests) == (kept < SIZE)
    assert cable.answer_bytes < SIZE - kept + 1_000


@pytest.mark.parametrize(
    "partial",
    [b"\0" * 1_000_000, MODEL[:999_999] + b"x", model_bytes(2, SIZE), MODEL + b"more", b"x" * (2 * SIZE)],
    ids=["zeros", "flipped", "another", "longer", "far-longer"],
)
def test_a_corrupt_partial_is_fetched_anew(url: str, part: Path, partial: bytes) -> None:
    part.write_bytes(partial)
    pull(url, part)


def test_a_service_that_does_not_come_back(cable: Cable, part: Path) -> None:
    cable.cuts = [500_000, *[0] * 50]
    with pytest.raises(TransferFailed, match=r"m\.bin: .*; [0-9]+ of 3000000 bytes are here") as caught:
        pull(cable.url, part)
    assert "pull again" in caught.value.hint
    assert len(cable.requests) == 1 + fetch.TRIES
    kept = part.stat().st_size
    cable.cuts = []
    pull(cable.url, part)
    assert f"Range: bytes={kept}-".encode() in cable.requests[-1]


def test_nobody_there(part: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(TransferFailed, match="Connection refused"):
        fetch.download(to(url), FILE, part, timeout_s=1.0)
    with pytest.raises(TransferFailed, match="does not answer") as caught:
        fetch.get(to(url), "/v1/manifest", limit_bytes=10, timeout_s=1.0)
    assert "idiolect run" in caught.value.hint


@pytest.mark.slow
def test_a_silent_service_is_left(part: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(TransferFailed, match="timed out"):
            fetch.get(to(url), "/v1/manifest", limit_bytes=10, timeout_s=0.2)
        with pytest.raises(TransferFailed, match="timed out"):
            fetch.download(to(url), FILE, part, timeout_s=0.1)
        assert time.monotonic() - started < 30


def _endless(request: Request) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(MODEL)


def _drip(request: Request) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"x")
        time.sleep(0.02)


def _chunked(body: bytes) -> Answer:
    def answer(request: Request) -> None:
        request.send(200, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), Content_Length="", Transfer_Encoding="chunked")

    return answer


def _wrong(body: bytes) -> Answer:
    return lambda request: request.send(200, body)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_endless, "sends more for m.bin than the 3000000 bytes"),
        (_chunked(MODEL + b"x"), "sends more"),
        (_wrong(MODEL + b"x"), "offers other bytes"),
        (_wrong(MODEL[:-1]), "offers other bytes"),
        (_wrong(model_bytes(2, SIZE)), "SHA-256"),
        (_wrong(MODEL[:-1] + b"x"), "SHA-256"),
        (lambda request: request.send(200, MODEL, Content_Encoding="gzip"), "offers other bytes"),
        (lambda request: request.send(206, MODEL, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}"), "offers other bytes"),
    ],
    ids=["endless", "chunked", "longer", "shorter", "another", "flipped", "gzip", "unasked-range"],
)
def test_a_lying_service(liar: LyingService, part: Path, answer: Answer, message: str) -> None:
    liar.answers[BLOB] = answer
    with pytest.raises(VerificationFailed, match=message):
        pull(liar.url, part)
    assert not part.exists() or part.stat().st_size == 0
    assert len(liar.requests) == 1


@pytest.mark.parametrize(
    "content_range",
    [f"bytes 0-{SIZE - 1}/{SIZE}", f"bytes 1001-{SIZE - 1}/{SIZE}", f"bytes 1000-{SIZE - 1}/{SIZE + 1}", ""],
)
def test_another_range_than_asked(liar: LyingService, part: Path, content_range: str) -> None:
    part.write_bytes(MODEL[:1000])
    liar.answers[BLOB] = lambda request: request.send(206, MODEL[1000:], Content_Range=content_range)
    with pytest.raises(VerificationFailed, match="offers other bytes"):
        pull(liar.url, part)


def test_ways_of_answering_that_are_allowed(liar: LyingService, part: Path) -> None:
    liar.answers[BLOB] = _chunked(MODEL)
    pull(liar.url, part)
    part.write_bytes(b"stale")
    liar.answers[BLOB] = _wrong(MODEL)  # no ranges: the partial file is overwritten
    pull(liar.url, part)
    part.write_bytes(b"stale")
    answers = [(416, b""), (503, b"busy"), (429, b""), (200, MODEL)]
    liar.answers[BLOB] = lambda request: request.send(*answers.pop(0))
    pull(liar.url, part)
    assert liar.requests[-1].headers["Range"] is None


def test_a_busy_service_is_waited_for_as_long_as_it_says(
    liar: LyingService, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a broken one: the other device may take minutes. In the end that is told too."""
    now_s, slept_s, said = [0.0], list[float](), list[str]()

    def sleep(seconds: float) -> None:
        slept_s.append(seconds)
        now_s[0] += seconds

    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 1.0 + now_s[0]))
    part.write_bytes(MODEL[:1000])

    def answer(request: Request) -> None:
        if len(slept_s) < 50:
            request.send(503, Retry_After="7")
        else:
            request.send(206, MODEL[1000:], Content_Range=f"bytes 1000-{SIZE - 1}/{SIZE}")

    liar.answers[BLOB] = answer
    pull(liar.url, part, on_busy=said.append)
    assert len(slept_s) == 50
    assert all(7 <= seconds <= 10.5 for seconds in slept_s)
    assert said == [f"{liar.url} is busy, with other devices or because it trains; waiting for up to 15 minutes"]

    part.unlink()
    liar.answers[BLOB] = lambda request: request.send(503, b"", Retry_After="99999999999")
    began_s = now_s[0]
    with pytest.raises(TransferFailed, match="is busy, with other devices or because it trains, for 15 minutes now"):
        pull(liar.url, part)
    assert fetch.BUSY_S < now_s[0] - began_s < fetch.BUSY_S + 2 * 90


@pytest.mark.parametrize("status", [301, 302, 400, 404, 410, 421])
def test_refusals_are_not_repeated(liar: LyingService, part: Path, status: int) -> None:
    liar.answers[BLOB] = lambda request: request.send(status, Location="http://evil.example/")
    with pytest.raises(TransferFailed, match=f"answers {status}"):
        pull(liar.url, part)
    assert len(liar.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_no_longer_good(liar: LyingService, part: Path, status: int) -> None:
    liar.answers[BLOB] = lambda request: request.send(status)
    with pytest.raises(NotPaired, match="no longer lets this device in"):
        pull(liar.url, part)
    assert len(liar.requests) == 1


def test_wrong_magic(url: str, part: Path) -> None:
    file = FILE.model_copy(update={"magic": "47475546"})
    with pytest.raises(VerificationFailed, match="begins with 6c6d6767, the manifest promises 47475546"):
        fetch.download(to(url), file, part, timeout_s=2.0)
    assert not part.exists()


def test_an_empty_file_needs_no_request(part: Path) -> None:
    file = ArtifactFile(path="empty", size_bytes=0, sha256=hashlib.sha256(b"").hexdigest())
    fetch.download(to("https://127.0.0.1:1"), file, part, timeout_s=0.1)
    assert part.read_bytes() == b""


def test_a_full_disk_keeps_what_is_there(cable: Cable, part: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(TransferFailed, match=f"cannot write {part}: {os.strerror(errno.EFBIG)}"):
            pull(cable.url, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(cable.requests) == 1
    assert part.read_bytes() == MODEL[:1_000_000]
    pull(cable.url, part)


def test_get(url: str) -> None:
    reply = fetch.get(to(url), "/v1/manifest", limit_bytes=100_000, timeout_s=2.0)
    assert (reply.status, reply.etag) == (200, '"mv-1"')
    again = fetch.get(to(url + "/"), "/v1/manifest", limit_bytes=100_000, timeout_s=2.0, etag=reply.etag)
    assert (again.status, again.body) == (304, b"")
    refusal = fetch.get(to(url), "/v1/blobs/sha256:" + "0" * 64, limit_bytes=100_000, timeout_s=2.0)
    assert (refusal.status, refusal.detail) == (404, "no release has this file; ask for the manifest again")


def test_get_is_bounded(url: str, liar: LyingService) -> None:
    with pytest.raises(VerificationFailed, match="more than 100 bytes"):
        fetch.get(to(url), "/v1/manifest", limit_bytes=100, timeout_s=2.0)
    liar.answers = {
        "/endless": _endless,
        "/drip": _drip,
        "/short": lambda request: request.send(200, b"abc", Content_Length="10"),
        "/nonsense": lambda request: request.send(404, b"[1]"),
        "/deep": lambda request: request.send(404, b"[" * 100_000),
    }
    with pytest.raises(VerificationFailed, match="more than 1000 bytes"):
        fetch.get(to(liar.url), "/endless", limit_bytes=1000, timeout_s=2.0)
    with pytest.raises(TransferFailed, match="did not finish"):
        fetch.get(to(liar.url), "/drip", limit_bytes=1000, timeout_s=0.2)
    with pytest.raises(TransferFailed, match="ended its answer early"):
        fetch.get(to(liar.url), "/short", limit_bytes=1000, timeout_s=2.0)
    for path in ("/nonsense", "/deep"):
        assert fetch.get(to(liar.url), path, limit_bytes=100_000, timeout_s=2.0).detail == ""


@pytest.mark.parametrize(
    "url", ["", "desk:8737", "http://desk:8737", "ftp://desk", "https://", "https://desk:99999", "file:///etc/passwd"]
)
def test_not_an_address(url: str) -> None:
    with pytest.raises(UsageError, match="not the address of a service"):
        fetch.get(to(url), "/v1/manifest", limit_bytes=10, timeout_s=1.0)
