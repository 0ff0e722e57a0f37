"""A training job as a child process, seen from the resident process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from daemon.work.spec import LOCK_FILE
from idiolect.child import MAX_LINE_CHARS, Message, error_from, parse
from idiolect.errors import JobError

PIPELINE = (sys.executable, "-P", "-m", "daemon.work.pipeline")  # -P: the present folder lends no code
STOP_WAIT_S = 3.0
TERMINATE_WAIT_S = 0.5
KILLED_WAIT_S = 1.0
"""A job that waits for a network folder that answers no more ends when that does; its lock keeps others away."""
"""Together less than the five seconds that a machine which shuts down may give; a training also saves as it goes."""
NICENESS = 10
LOG_FILE = "job.log"
ESTIMATED = ("estimated_bytes", "estimated_s")


class Job:
    """One run of the pipeline on `run_dir`. Make it, await `run()` once; read the attributes at any time."""

    def __init__(
        self,
        run_dir: Path,
        *,
        argv: Sequence[str] = PIPELINE,
        on_message: Callable[[Message], None] = lambda message: None,
        stop_wait_s: float = STOP_WAIT_S,
    ) -> None:
        self.run_dir = run_dir
        self.pid: int | None = None
        self.started = time.time()
        self.stage = "start"
        self.done, self.total, self.unit = 0.0, 0.0, ""
        self.warnings: list[str] = []
        self.estimate: dict[str, float] = {}
        """Of the training: `estimated_bytes` of memory, and `estimated_s` once its first steps were measured."""
        self._argv = [*argv, str(run_dir)]
        self._on_message = on_message
        self._stop_wait_s = stop_wait_s
        self._process: asyncio.subprocess.Process | None = None
        self._stopping, self._given_up = False, asyncio.Event()
        self._pace_from = time.monotonic(), 0.0  # and what was done by then
        self._end: Message | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the present stage ends, at its pace so far."""
        began, before = self._pace_from
        if not before < self.done <= self.total:
            return None
        return (time.monotonic() - began) * (self.total - self.done) / (self.done - before)

    def describe(self) -> dict[str, Any]:
        """The attributes as they stand in `idiolect status --json`."""
        return {
            "run": self.run_dir.name,
            "pid": self.pid,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "eta_s": self.eta_s,
            "estimate": dict(self.estimate),
            "warnings": list(self.warnings),
        }

    async def run(self) -> dict[str, Any]:
        """Start it and wait for its end: the fields of its `done` message.

        Raises the error it reported, or JobError where it ended without a word.
        """
        with _open_log(self.run_dir / LOG_FILE) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=4 * MAX_LINE_CHARS,
                process_group=0 if os.name == "posix" else None,  # Ctrl-C in a terminal must reach the parent alone
            )
        self.pid = self._process.pid
        _be_nice(self.pid)
        try:
            if self._stopping:
                self._say_stop()
            reading, given_up = asyncio.create_task(self._read()), asyncio.create_task(self._given_up.wait())
            try:
                await asyncio.wait({reading, given_up}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                given_up.cancel()
                reading.cancel()
            if self._given_up.is_set():
                raise JobError(f"nothing ends the job, pid {self.pid}", "a disk that it reads from may not answer")
            await reading
            status = await self._process.wait()
        finally:
            # Whatever ends this coroutine, no trainer is left behind without a parent.
            if self._process.returncode is None and not self._given_up.is_set():
                self._signal(signal.SIGKILL)
                await self._ended(KILLED_WAIT_S)
        return self._outcome(status)

    async def stop(self, wait_s: float | None = None) -> None:
        """Ask it to save and exit; after `wait_s` (default `stop_wait_s`) end it. Returns when it is gone or stays."""
        self._stopping = True
        if self._process is None:
            return
        self._say_stop()
        first_s = self._stop_wait_s if wait_s is None else wait_s
        for patience_s, harder in ((first_s, signal.SIGTERM), (TERMINATE_WAIT_S, signal.SIGKILL)):
            if await self._ended(patience_s):
                return
            self._signal(harder)
        if not await self._ended(KILLED_WAIT_S):
            self._given_up.set()

    async def _ended(self, within_s: float) -> bool:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), within_s)
        return self._process.returncode is not None

    def terminate(self) -> None:
        """End it at once, for a user who asks a second time."""
        if self._process is not None:
            self._signal(signal.SIGTERM)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than the limit, so no message of ours
                continue
            if not line:
                return
            if message := parse(line.decode("utf-8", "replace")):
                self._take(message)

    def _take(self, message: Message) -> None:
        data = message.data
        match message.kind:
            case "stage":
                self.stage, self._pace_from = str(data.get("name", "")), (time.monotonic(), 0.0)
                self.done, self.total, self.unit = 0.0, 0.0, ""
            case "progress":
                self.done, self.total = float(data.get("done", 0)), float(data.get("total", 0))
                unit = str(data.get("unit", ""))
                if unit != self.unit:  # what a continued job did earlier says nothing about its pace
                    self.unit, self._pace_from = unit, (time.monotonic(), self.done)
            case "metric":
                self.estimate |= {name: float(data[name]) for name in ESTIMATED if name in data}
            case "warning":
                self.warnings.append(str(data.get("message", "")))
            case "done" | "error":
                self._end = message
        self._on_message(message)

    def _outcome(self, status: int) -> dict[str, Any]:
        if self._end and self._end.kind == "done" and status == 0:
            return self._end.data
        if self._end and self._end.kind == "error":
            raise error_from(self._end)
        hint = f"its log: {self.run_dir / LOG_FILE}"
        if status < 0:
            name = signal.Signals(-status).name
            memory = " (often: too little memory; try a smaller tier)" if -status == signal.SIGKILL else ""
            raise JobError(f"the job was killed by {name}{memory}", hint)
        raise JobError(f"the job ended with status {status} and said nothing", hint)

    def _say_stop(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):  # it may just have ended
            self._process.stdin.write(b"stop\n")

    def _signal(self, number: signal.Signals) -> None:
        """To the job and to its own children (runtimes under test)."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self._process.pid, number)
            else:
                self._process.terminate()


async def wait_until_free(run_dir: Path, every_s: float = 0.5) -> None:
    """Return once no job holds `run_dir`: one whose parent was killed still saves its work for a while."""
    import filelock

    while run_dir.is_dir():
        try:
            with filelock.FileLock(run_dir / LOCK_FILE, timeout=0):
                return
        except filelock.Timeout:
            await asyncio.sleep(every_s)


def _open_log(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _be_nice(pid: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PGRP, pid, max(NICENESS, os.nice(0)))
