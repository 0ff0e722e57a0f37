"""Reading from an idiolect service: bounded, resumed, verified."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from idiolect.connection import Connection, no_answer, reason, retry_after_s
from idiolect.errors import NotPaired, TransferFailed, VerificationFailed
from idiolect.files import CHUNK_BYTES, sha256_file
from idiolect.wire import ArtifactFile

TRIES = 6
BACKOFF_S = 1.0
BUSY_S = 900.0
"""So long a service is waited for that sends to other devices first; while it trains it sends one file at a time."""
LONGEST_PAUSE_S = 60.0

OnBytes = Callable[[int], None]
OnBusy = Callable[[str], None]
"""Hears why nothing comes, once for each wait."""


@dataclass(frozen=True)
class Reply:
    """A short answer. `detail` is what the service says about a refusal."""

    status: int
    body: bytes
    etag: str

    @property
    def detail(self) -> str:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            return str(json.loads(self.body).get("detail", ""))
        return ""


def get(
    connection: Connection, path: str, *, limit_bytes: int, timeout_s: float, etag: str = "", wait_s: float = 0.0
) -> Reply:
    """GET a short document: at most `limit_bytes` in at most `timeout_s`, or 304 where it still has `etag`.

    With `wait_s` the service is asked to answer only when there is another, for so many seconds longer.

    Raises TransferFailed, or VerificationFailed where the answer is too large.
    """
    headers = {"If-None-Match": etag} if etag else {}
    if etag and wait_s:
        headers["Prefer"] = f"wait={wait_s:.0f}"
        timeout_s += wait_s
    deadline = time.monotonic() + timeout_s
    with _response(connection, path, headers, timeout_s) as response:
        body, length = b"", response.length
        while len(body) <= limit_bytes and (chunk := response.read1(limit_bytes)):
            body += chunk
            if time.monotonic() > deadline:
                raise TransferFailed(f"{connection.url} did not finish its answer within {timeout_s:.0f} s")
        if len(body) > limit_bytes:
            raise VerificationFailed(
                f"{connection.url}{path} has more than {limit_bytes} bytes", "this is no idiolect service"
            )
        if length is not None and len(body) < length:
            raise TransferFailed(f"{connection.url} ended its answer early")
        return Reply(response.status, body, response.headers.get("ETag", ""))


def download(
    connection: Connection,
    file: ArtifactFile,
    part: Path,
    *,
    timeout_s: float,
    on_bytes: OnBytes | None = None,
    on_busy: OnBusy | None = None,
) -> None:
    """Make `part` the whole of `file`, continuing what it holds; `on_bytes` is told its size as it grows.

    A connection that breaks, or brings nothing for `timeout_s`, is taken up again where it ended, until six tries in a
    row brought nothing. A service that is busy is asked again when it says, for a quarter of an hour (`on_busy`).
    What is longer than promised or has another digest is removed; a digest that is wrong after resuming is tried once
    more from the start. Raises TransferFailed, VerificationFailed.
    """
    for _ in range(2):
        resumed = part.exists() and part.stat().st_size > 0
        _complete(connection, file, part, timeout_s, on_bytes or (lambda _: None), on_busy or (lambda _: None))
        if sha256_file(part) == file.sha256:
            _check_magic(file, part)
            return
        part.unlink()
        if not resumed:
            break
    raise VerificationFailed(
        f"{file.path} from {connection.url} does not have the SHA-256 that the manifest promises",
        "it was thrown away and the model you have is untouched; try again, and if it stays so, look at that machine",
    )


def no_longer_let_in(url: str) -> NotPaired:
    """What a refused token means."""
    return NotPaired(
        f"{url} no longer lets this device in", "its user can let it in again: `idiolect pair` there, then pair here"
    )


class _Broken(Exception):
    """The connection ended before the answer did."""


class _Busy(Exception):
    """The service asks to come back in `wait_s`."""

    def __init__(self, said: str, wait_s: float) -> None:
        super().__init__(said)
        self.wait_s = wait_s


def _complete(
    connection: Connection, file: ArtifactFile, part: Path, timeout_s: float, on_bytes: OnBytes, on_busy: OnBusy
) -> None:
    """Bring `part` to the size of `file`."""
    failures, busy_since_s = 0, 0.0
    part.touch()
    while (have := part.stat().st_size) != file.size_bytes:
        if have > file.size_bytes:
            part.unlink()
            part.touch()
            have = 0
        try:
            _receive(connection, file, part, have, timeout_s, on_bytes)
            busy_since_s = 0.0
        except _Busy as busy:
            if not busy_since_s:
                busy_since_s = time.monotonic()
                on_busy(f"{busy}; waiting for up to {BUSY_S / 60:.0f} minutes")
            elif time.monotonic() - busy_since_s > BUSY_S:
                raise TransferFailed(f"{file.path}: {busy}, for {BUSY_S / 60:.0f} minutes now", "pull again") from busy
            time.sleep(min(busy.wait_s, LONGEST_PAUSE_S) * random.uniform(1.0, 1.5))
        except _Broken as error:
            failures = 0 if part.stat().st_size > have else failures + 1
            if failures == TRIES:
                raise TransferFailed(
                    f"{file.path}: {error}; {part.stat().st_size} of {file.size_bytes} bytes are here",
                    "pull again: it goes on where it ended",
                ) from error
            time.sleep(BACKOFF_S * 2**failures * random.uniform(0.5, 1.0))


def _receive(
    connection: Connection, file: ArtifactFile, part: Path, have: int, timeout_s: float, on_bytes: OnBytes
) -> None:
    url = connection.url
    etag = f'"sha256:{file.sha256}"'
    headers = {"Range": f"bytes={have}-", "If-Range": etag} if have else {}
    with _response_or_broken(connection, f"/v1/blobs/sha256:{file.sha256}", headers, timeout_s) as response:
        if response.status == 416:
            os.truncate(part, 0)
        start = _start(url, file, have, response)
        exact = response.length is not None
        with _writing(part, "ab" if start else "wb") as write:
            size_bytes = start
            # Without a length nobody knows that the answer is over before one byte too many was asked for.
            while size_bytes < file.size_bytes + (not exact):
                chunk = response.read1(min(CHUNK_BYTES, file.size_bytes + 1 - size_bytes))
                if not chunk:
                    break
                size_bytes += len(chunk)
                write(chunk)
                on_bytes(size_bytes)
    if size_bytes > file.size_bytes:
        part.unlink()
        raise VerificationFailed(f"{url} sends more for {file.path} than the {file.size_bytes} bytes promised")
    if size_bytes < file.size_bytes:
        raise _Broken("the connection ended early")


def _start(url: str, file: ArtifactFile, have: int, response: http.client.HTTPResponse) -> int:
    """Where the answer's bytes belong: at `have`, or at 0 where the service sends the whole file."""
    wait_s = retry_after_s(response)
    if response.status in {429, 503} and wait_s is not None:
        raise _Busy(f"{url} is busy, with other devices or because it trains", max(1.0, wait_s))
    if response.status in {416, 429} or response.status >= 500:
        raise _Broken(f"{url} answers {response.status}")
    if response.status in {401, 403}:
        raise no_longer_let_in(url)
    if response.status not in {200, 206}:
        raise TransferFailed(
            f"{url} answers {response.status} for {file.path}",
            "it may have been replaced by a newer release: pull again" if response.status in {404, 410} else "",
        )
    start = have if response.status == 206 else 0
    wanted = f"bytes {have}-{file.size_bytes - 1}/{file.size_bytes}"
    lengths = {None, file.size_bytes - start}
    if (
        (response.status == 206 and (not have or response.headers.get("Content-Range") != wanted))
        or response.length not in lengths
        or response.headers.get("Content-Encoding", "identity") != "identity"
    ):
        raise VerificationFailed(f"{url} offers other bytes for {file.path} than were asked for")
    return start


@contextlib.contextmanager
def _writing(part: Path, mode: str) -> Iterator[Callable[[bytes], object]]:
    """What to write to `part` with; a full disk is not a broken connection."""

    def write(chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise failure(error) from error

    def failure(error: OSError) -> TransferFailed:
        return TransferFailed(f"cannot write {part}: {error.strerror}", "make room, then pull again: it goes on there")

    try:
        file = part.open(mode, buffering=0)
    except OSError as error:
        raise failure(error) from error
    with file:
        yield write


def _check_magic(file: ArtifactFile, part: Path) -> None:
    with part.open("rb") as reader:
        magic = reader.read(4).hex()
    if not magic.startswith(file.magic):
        part.unlink()
        raise VerificationFailed(f"{file.path} begins with {magic}, the manifest promises {file.magic}")


@contextlib.contextmanager
def _response_or_broken(
    connection: Connection, path: str, headers: dict[str, str], timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    try:
        with connection.request(path, headers=headers, timeout_s=timeout_s) as response:
            yield response
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(reason(error)) from error


@contextlib.contextmanager
def _response(
    connection: Connection, path: str, headers: dict[str, str], timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    try:
        with _response_or_broken(connection, path, headers, timeout_s) as response:
            yield response
    except _Broken as error:
        raise no_answer(connection.url, error) from error
