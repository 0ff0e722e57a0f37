"""Takes runs through their jobs, one at a time, from the decision to the library's last word on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from daemon import publish
from daemon.intake.library import Run
from daemon.rooms import Rooms
from daemon.work import runs
from daemon.work.jobs import Job, wait_until_free
from idiolect.child import Message
from idiolect.errors import IdiolectError, JobError

PAUSE_WAIT_S = 30.0
"""A pause is not in a hurry as a stop is: a big model may take a while to save."""

_log = logging.getLogger("idiolect")


class Trainer:
    """Make one when the daemon starts: it looks after what a dead daemon left. `emit` hears "job" and "run".

    `lacking` names what a job may have failed for, where there will be a wait for just that: then it goes on later.
    """

    def __init__(
        self,
        rooms: Rooms,
        pipeline: Sequence[str],
        emit: Callable[[str, dict[str, Any]], None],
        lacking: Callable[[], str] = lambda: "",
    ) -> None:
        self.job: Job | None = None
        """The job that runs now."""
        self.waiting = False
        """For a job that outlived a killed daemon."""
        self._rooms = rooms
        self._pipeline = pipeline
        self._emit = emit
        self._lacking = lacking
        self._stopping = asyncio.Event()
        self._paused = ""
        self._farewell: asyncio.Task[None] | None = None
        self.recover()

    def recover(self, *, crashed: bool = True) -> None:
        """Call it when no job of ours runs: what the library still calls running goes on later."""
        self._held = runs.recover(self._rooms, crashed=crashed)

    async def train(self, tier: str, run_id: str | None) -> Run | None:
        """A new run of `tier`, or `run_id` continued, to its end; None when stopped before it began.

        What goes wrong with the job is the run's reason. Raises OSError and sqlite3.Error where that cannot be noted.
        """
        if not await self._alone():
            return None
        self._paused = ""
        run_id = run_id or runs.begin(self._rooms, tier)
        try:
            result = runs.result_of(self._rooms, run_id)
            if result is None:
                await self._work(run_id)
                result = runs.result_of(self._rooms, run_id)
            if result is None:
                raise JobError("the job ended well but left no result.json", f"see {self._rooms.run_dir(run_id)}")
            await publish.finish(self._rooms, run_id, result)
        except (IdiolectError, OSError) as error:
            stopped = (self._stopping.is_set() or self._paused) and isinstance(error, JobError)
            reason = (stopped and self._paused) or " — ".join(str(error).splitlines())
            if not stopped and (missing := self._lacking()):
                stopped, reason = True, f"paused, waiting for {missing}; {reason}"
            self._rooms.library.update_run(run_id, state="interrupted" if stopped else "failed", reason=reason)
        run = self._rooms.library.run(run_id)
        _log.info("%s of tier %s: %s %s", run.id, run.tier, run.state, run.reason)
        self._emit("run", {"id": run.id, "state": run.state, "reason": run.reason, "release": run.release_id})
        await publish.tidy(self._rooms)
        return run

    def stop(self) -> None:
        """Let the job save and end, and begin no other. The second call does not wait for the job."""
        if self.job is not None and self._stopping.is_set():
            self.job.terminate()
        elif self.job is not None:
            self._farewell = asyncio.create_task(self.job.stop())
        self._stopping.set()

    def pause(self, reason: str) -> None:
        """Let the job save and end; its run is interrupted for `reason`, and `train` goes on with it."""
        if self.job is not None and not self._paused and not self._stopping.is_set():
            self._paused = f"paused, waiting for {reason}"
            self._farewell = asyncio.create_task(self.job.stop(PAUSE_WAIT_S))

    async def _work(self, run_id: str) -> None:
        self._rooms.library.update_run(run_id, state="running", reason="")
        self.job = Job(self._rooms.run_dir(run_id), argv=self._pipeline, on_message=self._heard)
        try:
            await self.job.run()
        finally:
            self.job = None

    async def _alone(self) -> bool:
        """Wait for jobs that outlived a killed daemon: two trainers at once are never wanted. False when stopping."""
        stopping = asyncio.create_task(self._stopping.wait())
        while self._held and not self._stopping.is_set():
            self.waiting = True
            free = asyncio.create_task(wait_until_free(self._held[0]))
            await asyncio.wait({free, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if free.done():
                self._held.pop(0)
            free.cancel()
        stopping.cancel()
        self.waiting = False
        return not self._stopping.is_set()

    def _heard(self, message: Message) -> None:
        assert self.job is not None
        self._emit("job", {**self.job.describe(), "message": {"kind": message.kind, **message.data}})
