"""Serving one immutable file: conditional requests, one byte range, 1 MiB at a time.

aiohttp's FileResponse is not used: it makes its own ETag from the modification time, does not compare an entity tag
in If-Range (a stale partial file would be continued), and reads 16 KiB at a time once TLS is on.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from daemon.sync.guard import DEVICE
from daemon.sync.limits import Bandwidth, Slots
from idiolect.files import CHUNK_BYTES
from idiolect.wire import ArtifactFile

STALL_S = 30.0
PIECE_BYTES = 256 * 1024
"""So much is encrypted in one go; small requests wait for no more."""
STREAMS_PER_DEVICE = 2
STREAMS = 4
STREAMS_WHILE_TRAINING = 1

_log = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Pace:
    """How many files are sent at once, to each device and in all, and how fast."""

    slots: Slots
    bandwidth: Bandwidth


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """The first byte and the one after the last that a Range header asks for, or None where it is to be ignored
    (another unit, several ranges, not a range at all). The first is not less than the second: cannot be satisfied."""
    match = _RANGE.fullmatch(header)
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return max(0, size_bytes - int(match[2])), size_bytes
    first = int(match[1])
    if not match[2]:
        return first, size_bytes
    last = int(match[2])
    return (first, min(last + 1, size_bytes)) if last >= first else None


async def serve(
    request: web.Request, path: Path, file: ArtifactFile, pace: Pace, more: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Answer a GET or HEAD for the file at `path`: 200, 206, 304, 416, or 503 where too many are being sent. The
    headers `more` are added, or take the place of its own."""
    etag = f'"sha256:{file.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        **(more or {}),
    }
    if none_match(request, etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = "application/octet-stream"
    headers["Content-Disposition"] = f'attachment; filename="{file.path.rpartition("/")[2]}"'
    status, first, end = 200, 0, file.size_bytes
    asked = _asked_range(request, etag, file.size_bytes)
    if asked is not None:
        status, (first, end) = 206, asked
        if first >= end:
            raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{file.size_bytes}"})
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.size_bytes}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - first
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    with pace.slots.taken(request[DEVICE].id) as free, await asyncio.to_thread(path.open, "rb") as source:
        if not free:
            raise web.HTTPServiceUnavailable(text="too many files are being sent already", headers={"Retry-After": "2"})
        if os.fstat(source.fileno()).st_size != file.size_bytes:
            raise OSError(f"{path} does not have the {file.size_bytes} bytes it was published with")
        await response.prepare(request)
        await _send(request, response, source, (first, end), pace.bandwidth)
    return response


def none_match(request: web.Request, etag: str) -> bool:
    """True where If-None-Match names this entity tag (weak comparison) or any."""
    tags = [tag.strip() for header in request.headers.getall("If-None-Match", []) for tag in header.split(",")]
    return "*" in tags or etag in {tag.removeprefix("W/") for tag in tags}


def _asked_range(request: web.Request, etag: str, size_bytes: int) -> tuple[int, int] | None:
    ranges = request.headers.getall("Range", [])
    if request.method != "GET" or len(ranges) != 1 or request.headers.get("If-Range", etag) != etag:
        return None
    return parse_range(ranges[0], size_bytes)


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    source: BinaryIO,
    span: tuple[int, int],
    bandwidth: Bandwidth,
) -> None:
    first, end = span
    try:
        while first < end:
            size_bytes = min(CHUNK_BYTES, end - first)
            # The way through a thread costs half as much processor time again as all the rest.
            if _is_in_memory(source, size_bytes, first):
                chunk = os.pread(source.fileno(), size_bytes, first)
            else:
                chunk = await asyncio.to_thread(os.pread, source.fileno(), size_bytes, first)
            if not chunk:
                raise OSError("the file became shorter while it was sent")
            await bandwidth.take(len(chunk))
            async with asyncio.timeout(STALL_S):
                for start in range(0, len(chunk), PIECE_BYTES):
                    await response.write(memoryview(chunk)[start : start + PIECE_BYTES])
                    await asyncio.sleep(0)  # else who reads fast would not let others have their turn
            first += len(chunk)
        await response.write_eof()
    except ConnectionError:
        _log.debug("%s left in the middle of a file", request.remote)
    except (OSError, TimeoutError) as error:
        # Bytes are on their way: only a broken connection tells the client that some are missing.
        reason = str(error) or f"it took no byte for {STALL_S:.0f} s"
        _log.warning("cannot send %s to %s: %s", request.path, request.remote, reason)
        if request.transport is not None:
            request.transport.abort()


def _is_in_memory(source: BinaryIO, size_bytes: int, offset: int) -> bool:
    """Whether reading there waits for no disk, by its first and last byte and where the system tells (Linux)."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    buffer = [bytearray(1)]
    try:
        ends = (offset, offset + size_bytes - 1)
        return all(os.preadv(source.fileno(), buffer, place, os.RWF_NOWAIT) == 1 for place in ends)
    except OSError:
        return False
