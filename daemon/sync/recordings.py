"""What devices ask about recordings: to leave one here, to say what is said in it, to hear what became of it.

A recording is named by the SHA-256 of its bytes, so it can be sent again after any failure, and is kept once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientPayloadError, web

from daemon.intake.reader import Reader
from daemon.intake.transcode import COMMAND, DISK_FULL, TIMEOUT_S, Transcode
from daemon.sync import guard
from daemon.sync.devices import RECORD, Device
from daemon.sync.guard import Route
from daemon.sync.inbox import AlreadyTaken, Full, Inbox, Recording, Transcoded, full_disk
from daemon.sync.limits import RateLimit, Slots
from idiolect.errors import JobError
from idiolect.sending import MAX_RECORDING_BYTES, Received, RecordingMeta

PER_MINUTE = 120
UPLOADS_PER_DEVICE = 2
UPLOADS = 4
BUSY_S = 2
_PATH = "/v1/recordings/{sha256:[0-9a-f]{64}}"


@dataclass(frozen=True)
class _Body:
    device: Device
    sha256: str
    size_bytes: int


class Recordings:
    """The routes, for `Server`; what arrives goes to `inbox`."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._rate = RateLimit(PER_MINUTE, 60)
        self._slots = Slots(UPLOADS_PER_DEVICE, UPLOADS)
        self._turn = asyncio.Lock()

    def routes(self) -> list[Route]:
        """All of them need the scope `recordings:write`."""
        return [
            Route("GET", _PATH, self._tell, RECORD),
            Route("HEAD", _PATH, self._tell, RECORD),
            Route("PUT", _PATH, self._take, RECORD),
            Route("PUT", f"{_PATH}/meta", self._describe, RECORD),
        ]

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        """200, 404: nothing is told of what other devices have sent."""
        return _answer(200, self._known(request))

    async def _take(self, request: web.Request) -> web.StreamResponse:
        """201; 200 where it was here already; 400, 408, 411, 413, 415, 422, 429, 503, 507."""
        body = _Body(request[guard.DEVICE], request.match_info["sha256"], _size_bytes(request))
        if known := self._inbox.find(body.device.id, body.sha256):
            await _drain(request, body.size_bytes)
            return _answer(200, known)
        if wait_s := self._rate.wait_s(body.device.id):
            raise guard.too_many(wait_s, "too many recordings from this device; wait a little")
        with self._slots.taken(body.device.id) as free, _no_room():
            if not free:
                raise _busy("other recordings are being sent; try again in a moment")
            self._inbox.check_room(body.device.id, body.size_bytes)
            self._rate.note(body.device.id)
            with self._arriving() as sent, self._arriving() as plain:
                await _receive(request, body, sent)
                transcoded = await self._transcode(sent, plain)
                return _answer(201, self._inbox.add(body.device, body.sha256, transcoded))

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        """200; 400, 404, 408, 409 where it was taken in with another text, 411, 413, 415, 422, 507."""
        known = self._known(request)
        meta = await guard.read_json(request, RecordingMeta)
        if problem := meta.problem(known.duration_s):
            raise web.HTTPUnprocessableEntity(text=problem)
        try:
            with _no_room():
                return _answer(200, self._inbox.describe(known, meta))
        except AlreadyTaken:
            raise web.HTTPConflict(
                text="it was taken in with another text, which can be changed only where it lies now"
            ) from None

    def _known(self, request: web.Request) -> Recording:
        found = self._inbox.find(request[guard.DEVICE].id, request.match_info["sha256"])
        if found is None:
            raise web.HTTPNotFound(text="this device has not sent this recording")
        return found

    async def _transcode(self, sent: Path, plain: Path) -> Transcoded:
        """One at a time, each in a child of its own."""
        async with self._turn:
            reader = Reader(COMMAND, timeout_s=TIMEOUT_S)
            try:
                reading = await reader.read(Transcode(path=sent, folder=sent.parent, into=plain))
            except JobError as error:
                raise _busy("recordings cannot be looked into now") from error
            finally:
                await reader.close()
        if reading.state != "ready" or reading.duration_s is None:
            if reading.reason == DISK_FULL:
                raise Full(reading.reason)
            raise web.HTTPUnprocessableEntity(text=reading.reason)
        return Transcoded(plain, reading.duration_s, reading.clips[0].pcm_sha256)

    @contextlib.contextmanager
    def _arriving(self) -> Iterator[Path]:
        path = self._inbox.arriving / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def is_audio(head: bytes) -> bool:
    """Whether a file that begins with these 16 bytes may be WAV, FLAC, Ogg, MP4, Matroska or MP3."""
    return (
        head[:4] in {b"RIFF", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3"}
        or head[4:8] == b"ftyp"
        or head[:3] == b"ID3"
        or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0)
    )


def _size_bytes(request: web.Request) -> int:
    size_bytes = request.content_length
    if size_bytes is None:
        raise web.HTTPLengthRequired(text="say how long the recording is (Content-Length)")
    if size_bytes > MAX_RECORDING_BYTES:
        raise web.HTTPRequestEntityTooLarge(
            MAX_RECORDING_BYTES, size_bytes, text=f"at most {MAX_RECORDING_BYTES} bytes are taken in one recording"
        )
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text="send the recording as it is, without Content-Encoding")
    return size_bytes


async def _receive(request: web.Request, body: _Body, target: Path) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    with target.open("xb") as file:
        target.chmod(0o600)
        async with _reading(request, body.size_bytes):
            async for chunk in request.content.iter_any():
                if not size_bytes and not is_audio(chunk[:16]):
                    raise web.HTTPUnsupportedMediaType(text="not audio: send wav, flac, mp3, m4a, ogg, opus or webm")
                size_bytes += len(chunk)
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
    if digest.hexdigest() != body.sha256:
        raise web.HTTPBadRequest(text="these are not the bytes whose SHA-256 stands in the address")


async def _drain(request: web.Request, size_bytes: int) -> None:
    """Let a client end its sending in peace, unless it asked before it began."""
    if "Expect" not in request.headers:
        async with _reading(request, size_bytes):
            async for _ in request.content.iter_any():
                pass


@contextlib.asynccontextmanager
async def _reading(request: web.Request, size_bytes: int) -> AsyncIterator[None]:
    await guard.want_body(request)
    try:
        async with asyncio.timeout(guard.body_deadline_s(size_bytes)):
            yield
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the recording came too slowly") from None
    except (ConnectionError, ClientPayloadError, web.RequestPayloadError):
        raise web.HTTPBadRequest(text="the recording broke off") from None  # nobody is there to read this


def _answer(status: int, recording: Recording) -> web.Response:
    received = Received(sha256=recording.sha256, state=recording.state, duration_s=recording.duration_s)
    return web.Response(
        status=status,
        body=received.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _busy(text: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=text, headers={"Retry-After": str(BUSY_S)})


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    try:
        with full_disk():
            yield
    except Full as error:
        raise web.HTTPInsufficientStorage(text=str(error)) from error
