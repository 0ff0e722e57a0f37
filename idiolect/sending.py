"""Sending recordings to the service of one's own house, which keeps them apart until its user has looked at them.

from idiolect.sending import Sender
Sender(Pairings().choose()).send(Path("note.wav"), RecordingMeta(text="call mum"))
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from idiolect import client, fetch
from idiolect import connection as connections
from idiolect.connection import Connection, retry_after_s
from idiolect.errors import SyncError, UsageError, VerificationFailed
from idiolect.pairing import Pairing, Pairings
from idiolect.whisper import MAX_S

MAX_RECORDING_BYTES = 25 << 20
MAX_RECORDING_S = 600.0
Format = Literal["txt", "srt", "vtt"]
TEXT_FORMATS: tuple[Format, ...] = ("srt", "vtt", "txt")
TRIES = 6
LONGEST_PAUSE_S = 60.0
ANSWER_S = 120.0
"""How long the service may take to look into one recording."""
MAX_ANSWER_BYTES = 64 * 1024

Text = Annotated[str, Field(min_length=1, max_length=60_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Line = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]


class RecordingMeta(BaseModel):
    """PUT /v1/recordings/{sha256}/meta: what is said in a recording, in `format` (srt and vtt say it with times)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Text
    format: Format = "txt"
    lang: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None
    spoken_at: AwareDatetime | None = None
    device: Line | None = None
    source: Line | None = None
    corrected_from: Text | None = None

    def problem(self, duration_s: float) -> str:
        """Why a recording of this length cannot be learned from by this text; "" where it can."""
        if not self.text.strip():
            return "the text is empty"
        if self.format == "txt" and duration_s > MAX_S:
            return f"{duration_s:.0f} s of speech need a text with times (srt or vtt); without, at most {MAX_S:.0f} s"
        return ""


class Received(BaseModel):
    """What the service answers: what became of a recording."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    state: Literal["waiting", "taken", "refused"]
    duration_s: float


class Sender:
    """Sends to the service that `pairing` is with, at `url` or wherever it is found."""

    def __init__(self, pairing: Pairing, *, url: str | None = None, timeout_s: float = 10.0) -> None:
        self._pairing = pairing
        self._url = url.rstrip("/") if url else None
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    def send(self, path: Path, meta: RecordingMeta | None = None) -> Received:
        """Send the recording `path`, and what is said in it. What the service has already is not sent again.

        Raises UsageError (a file that cannot be sent), NotPaired, TransferFailed, SyncError (the service does not
        want it).
        """
        data = _read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        place = f"/v1/recordings/{sha256}"
        answer = self._ask("GET", place, path)
        if answer.status == 404:
            answer = self._ask("PUT", place, path, data, "application/octet-stream")
        if meta is not None:
            answer = self._ask("PUT", f"{place}/meta", path, meta.model_dump_json(exclude_none=True).encode())
        try:
            return Received.model_validate_json(answer.body)
        except ValidationError as error:
            raise VerificationFailed(
                "what answers does not speak as idiolect does", "another program there?"
            ) from error

    def _ask(
        self, method: str, place: str, path: Path, body: bytes | None = None, kind: str = "application/json"
    ) -> _Answer:
        failure: SyncError
        for attempt in range(TRIES):
            try:
                answer = self._once(method, place, body, kind)
            except (OSError, http.client.HTTPException) as error:
                failure, pause_s = connections.no_answer(self._reach().url, error), 2.0**attempt
                self._connection = None  # its address may have changed
            else:
                if answer.status in {200, 201} or (method == "GET" and answer.status == 404):
                    return answer
                failure = _refusal(path, answer)
                if answer.status in {401, 403}:
                    raise fetch.no_longer_let_in(self._reach().url)
                if answer.status not in {429, 503}:
                    raise failure
                pause_s = answer.retry_after_s
            if attempt + 1 < TRIES:
                time.sleep(min(pause_s, LONGEST_PAUSE_S))
        raise failure

    def _once(self, method: str, place: str, body: bytes | None, kind: str) -> _Answer:
        headers = {"Content-Type": kind} if body is not None else {}
        with self._reach().request(
            place, method=method, headers=headers, body=body, timeout_s=ANSWER_S if body else self._timeout_s
        ) as response:
            return _Answer(response, response.read(MAX_ANSWER_BYTES))

    def _reach(self) -> Connection:
        """The service at an address where it has just shown its key."""
        if self._connection is None:
            self._connection = self._pairing.connection().at(self._url) if self._url else self._found()
        return self._connection

    def _found(self) -> Connection:
        found = client.reach(self._pairing, self._pairing.urls, self._timeout_s)
        if self._pairing.urls[:1] != (found.url,):
            self._pairing = self._pairing.known_at(found.url)
            Pairings().save(self._pairing)
        return found


class _Answer:
    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status, self.body = response.status, body
        wait_s = retry_after_s(response)
        self.retry_after_s = 1.0 if wait_s is None else wait_s

    @property
    def detail(self) -> str:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            return str(json.loads(self.body).get("detail", ""))
        return ""


def text_beside(path: Path) -> RecordingMeta | None:
    """What NAME.srt, NAME.vtt or NAME.txt beside the recording says. Raises UsageError where it cannot be sent."""
    for format in TEXT_FORMATS:
        beside = path.with_suffix(f".{format}")
        if beside.is_file():
            try:
                return RecordingMeta(text=beside.read_text(encoding="utf-8-sig"), format=format)
            except (OSError, ValueError) as error:
                raise UsageError(f"{beside} cannot be sent: {_why(error)}", "save it as UTF-8 text") from error
    return None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ValidationError):
        return error.errors(include_url=False)[0]["msg"]
    return (error.strerror or "") if isinstance(error, OSError) else "it is not UTF-8"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            data = file.read(MAX_RECORDING_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name recordings") from error
    if not data or len(data) > MAX_RECORDING_BYTES:
        what = "is empty" if not data else f"has {size_bytes} bytes, and at most {MAX_RECORDING_BYTES} are taken"
        raise UsageError(f"{path} {what}", "send FLAC or Opus, ten minutes at most a file")
    return data


def _refusal(path: Path, answer: _Answer) -> SyncError:
    detail = answer.detail or f"answer {answer.status}"
    return SyncError(f"{path.name} was not taken: {detail}", "the other recordings are not concerned")
