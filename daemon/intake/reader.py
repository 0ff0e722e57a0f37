"""The daemon's end of the worker: started when there is something to read, gone when there is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from daemon.intake.reading import READY_LINE, Reading, Request
from idiolect.errors import JobError

_MAX_LINE_BYTES = 64 << 20
_FAREWELL_S = 2.0
_FROM_OUTSIDE = frozenset({"SIGHUP", "SIGINT", "SIGKILL", "SIGTERM"})  # a logout, a system short of memory


class Reader:
    """Reads one recording at a time in a worker child.

    A worker that dies over a recording costs that recording a rejection; the next one gets a new worker.
    `argv` starts the worker, `timeout_s` bounds one recording, `idle_s` is how long an idle worker stays.
    """

    def __init__(self, argv: Sequence[str] = (), timeout_s: float = 300.0, idle_s: float = 10.0) -> None:
        self._argv = tuple(argv) or (sys.executable, "-m", "daemon.intake.worker")
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._farewell: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether a worker is there."""
        return self._process is not None

    async def read(self, request: Request) -> Reading:
        """What the worker says of one recording. Raises JobError when no worker can be started at all."""
        async with self._lock:
            if self._farewell is not None:
                self._farewell.cancel()
            process = self._process or await self._start()
            try:
                async with asyncio.timeout(self._timeout_s):
                    line = await _ask(process, request)
            except TimeoutError:
                await self._end(kill=True)
                return Reading(state="rejected", reason=f"could not be read within {self._timeout_s:.0f} s", retry=True)
            except asyncio.CancelledError:
                await self._end(kill=True)  # its answer would be taken for the next one's
                raise
            if not line.endswith(b"\n"):
                await self._end()
                return _last_words(process.returncode or 0)
            self._farewell = asyncio.create_task(self._leave_when_idle())
            return Reading.model_validate_json(line)

    async def warm(self) -> None:
        """Start a worker before it is needed. Raises JobError as `read` does."""
        async with self._lock:
            if self._process is None:
                await self._start()
                self._farewell = asyncio.create_task(self._leave_when_idle())

    async def close(self) -> None:
        """End the worker."""
        async with self._lock:
            if self._farewell is not None:
                self._farewell.cancel()
            await self._end()

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the daemon, which ends its worker itself
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._process = process
        assert process.stdout is not None
        line = b""
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await process.stdout.readline()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self._end(kill=True)  # its first line would be taken for an answer
            raise
        if line.strip() != READY_LINE.encode():
            await self._end()
            raise JobError(
                f"the reader of recordings does not start (exit status {process.returncode})",
                f"see why with: {' '.join(self._argv)}",
            )
        return process

    async def _end(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(0 if kill else _FAREWELL_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):  # one that waits for a disk ends when that answers
                async with asyncio.timeout(_FAREWELL_S):
                    await process.wait()

    async def _leave_when_idle(self) -> None:
        await asyncio.sleep(self._idle_s)
        async with self._lock:
            await self._end()


async def _ask(process: asyncio.subprocess.Process, request: Request) -> bytes:
    """The answering line; without its line end when the worker died over it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request.model_dump_json().encode() + b"\n")
        await process.stdin.drain()
        return await process.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        return b""


def _last_words(returncode: int) -> Reading:
    """Why the worker died over a recording; one that something else ended says nothing of the recording."""
    if returncode >= 0:
        reason = f"the decoder gave up on it (exit status {returncode}); save it again in another format"
        return Reading(state="rejected", reason=reason)
    name = signal.Signals(-returncode).name
    if name == "SIGXCPU":
        return Reading(state="rejected", reason="reading it takes more processor time than any recording should")
    if name in _FROM_OUTSIDE:
        return Reading(state="waiting", reason=f"reading it was interrupted ({name}); tried again later", retry=True)
    return Reading(state="rejected", reason=f"the decoder crashed on it ({name}); save it again in another format")
