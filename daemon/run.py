"""The resident process: watches recordings, decides, runs jobs, publishes, serves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from daemon import logs, notices, supervisor
from daemon.config import Config, load
from daemon.config import Server as ServerSettings
from daemon.desktop import Desktop
from daemon.intake.intake import Intake
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.status import describe
from daemon.sync import publishing
from daemon.sync.control import ControlServer
from daemon.sync.devices import Device
from daemon.sync.discovery import Advertisement
from daemon.sync.household import Household
from daemon.sync.recordings import Recordings
from daemon.sync.review import review
from daemon.sync.server import Door, Server
from daemon.work import conditions, runs
from daemon.work.jobs import PIPELINE
from daemon.work.machine import Machine
from daemon.work.scheduler import Action, next_action
from daemon.work.trainer import Trainer
from idiolect.errors import CheckpointError, ConfigError, DatasetError, StoreError, UsageError
from idiolect.wire import Report

REST_S = 0.5
REST_FACTOR = 20
"""After a decision it rests for so many times as long as that took, and for REST_S at least: files arrive in bursts."""
TELL_EVERY_S = 5.0
"""How often `on_event` hears of recordings while they still arrive."""
TROUBLE_PAUSE_S = 60.0

_log = logging.getLogger("idiolect")

OnEvent = Callable[[str, dict[str, Any]], None]
"""Hears what a person in front of the terminal may want to see: ("serving", {"urls"}), ("recordings", counts),
("next", as in status), ("job", as in status and the job's own "message"), ("run", {"id", "state", "reason",
"release"}), ("warning", {"message"})."""


class Daemon:
    """One home's resident process. Make it, then `run()`; `stop()` may come from a signal or the control socket."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        *,
        on_event: OnEvent = lambda kind, data: None,
        pipeline: Sequence[str] = PIPELINE,
    ) -> None:
        self._paths = paths
        self._config = config
        self.started = False
        """Every door is open."""
        self._wake, self._leaving = asyncio.Event(), asyncio.Event()
        self._ending = False
        self._next_config: Config | None = None  # to live by after a reload
        self._on_event = on_event
        self._pipeline = pipeline
        self._action = Action("nothing", "starting")
        self._due = False
        self._decided_in_s = 0.0
        self._forced: set[str] = set()
        self._looked = False  # at the folders as they are now
        self._told: dict[str, dict[str, Any]] = {}
        self._told_s = time.monotonic()
        self._warnings: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Server | None = None
        self._household: Household | None = None
        self._desktop: Desktop | None = None
        self._advertisement: Advertisement | None = None

    def run(self) -> None:
        """Live until stopped. Raises AlreadyRunning, ConfigError (also for a port in use), StoreError."""
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """`run` inside an event loop."""
        with self._paths.locked(), logs.kept_in(self._paths.log_file), self._signals():
            try:
                while not self._ending:
                    await self._live()
            finally:
                _log.info("ended")

    def stop(self) -> None:
        """Save the running job and end. The second call does not wait for the job."""
        supervisor.stopping()
        self._ending = True
        self._leave()

    def reload(self) -> None:
        """Read the settings again and live by them; a running job saves and goes on. Raises ConfigError, and then
        nothing changes."""
        config = load(self._paths.config_file)
        Rooms.check(self._paths, config)
        supervisor.reloading()
        self._warnings.clear()
        self._next_config, self._looked = config, False
        self._leave()

    def status(self) -> dict[str, Any]:
        """What `idiolect status --json` says."""
        if self._action.kind != "train":
            self._decide()
        job = self._trainer.job
        waiting = ["a job of the daemon before this one still saves its work; waiting for its end"]
        return describe(
            self._rooms,
            self._action,
            pid=os.getpid(),
            job=job.describe() if job else None,
            urls=self._server.urls() if self._server else [],
            warnings=[*self._intake.warnings, *self._warnings.values(), *(waiting if self._trainer.waiting else [])],
        )

    # Life

    async def _live(self) -> None:
        """From open doors to closed ones, under one configuration."""
        self._leaving.clear()
        before, config = self._config, self._next_config or self._config
        self._config, self._next_config = config, None
        try:
            await self._live_by(config)
        except ConfigError as error:  # as a port that is taken
            if config is before:
                raise
            self._config = before
            self._refuse_settings(error)

    async def _live_by(self, config: Config) -> None:
        with Rooms.opened(self._paths, config) as rooms:
            self._rooms = rooms
            self._machine = Machine(self._paths.state, config.conditions.max_load_percent)
            async with contextlib.AsyncExitStack() as closing:
                await self._startup(closing)
                self.started = True
                supervisor.ready()
                await self._main_loop()

    def _leave(self) -> None:
        if self.started:
            self._trainer.stop()
        self._leaving.set()
        self._wake.set()

    async def _startup(self, closing: contextlib.AsyncExitStack) -> None:
        """Open every door; `closing` shuts them in reverse order, also where a later one does not open."""
        _log.info("starting, pid %d", os.getpid())
        self._trainer = Trainer(self._rooms, self._pipeline, self._on_event, self._lacking)
        if not self._config.recordings.folders:
            with contextlib.suppress(OSError):  # then it is missing, which `status` says
                self._paths.recordings.mkdir(parents=True, exist_ok=True)
        settings = self._config.recordings
        self._intake = Intake(
            self._rooms.library,
            self._rooms.folders,
            settings.settle_s,
            settings.rescan_s,
            settings.polling,
            language=self._config.training.language,
        )
        self._intake.on_change = self._wake.set
        if self._config.server.enabled:
            await self._serve_devices(self._config.server, closing)
        control = ControlServer(self._paths.control_socket, self._command)
        closing.push_async_callback(control.stop)
        await control.start()
        closing.push_async_callback(self._end_tasks)
        self._spawn(self._take_in())
        if every_s := supervisor.watchdog_s():
            self._spawn(supervisor.keep_alive(every_s))

    async def _main_loop(self) -> None:
        trouble = False
        while not self._leaving.is_set():
            try:
                if trouble:
                    self._trainer.recover(crashed=False)
                    trouble = False
                    self._warnings.pop("state", None)
                self._wake.clear()
                self._decide()
                if self._due and not self._action.asked:
                    await asyncio.to_thread(self._machine.look)
                    self._decide()
                if self._action.kind == "train":
                    await self._train(self._action)
                else:
                    await self._sleep_until(self._action.at)
            except (OSError, sqlite3.Error) as error:  # a full disk, most often; what is published is served on
                trouble = True
                _log.exception("cannot go on")
                self._warn("state", f"{self._paths.state} cannot be written ({error}); trying again every minute")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), TROUBLE_PAUSE_S)

    async def _serve_devices(self, settings: ServerSettings, closing: contextlib.AsyncExitStack) -> None:
        store = self._rooms.store
        door = Door(
            settings.label,
            settings.bind,
            settings.port,
            settings.plain_port,
            settings.max_mb_per_s * 1e6,
            settings.interfaces,
        )
        recordings = Recordings(self._rooms.inbox)
        self._server = Server(store, self._rooms.identity, self._rooms.devices, door, recordings.routes())
        closing.push_async_callback(self._server.stop)
        await self._server.start()
        self._server.on_report, self._server.on_renewed = self._judge, self._tell_devices
        self._household = Household(self._rooms, self._server)
        closing.push_async_callback(self._household.stop)
        self._household.pair_this_computer()
        self._on_event("serving", {"urls": self._server.urls()})
        self._desktop = Desktop(self._rooms, functools.partial(self._note, "desktop"))
        self._spawn(self._desktop.keep())
        if settings.discovery:
            self._advertisement = Advertisement(
                store.repo,
                settings.label,
                settings.bind,
                self._server.port,
                store.version,
                plain_port=self._server.plain_port,
                interfaces=settings.interfaces,
            )
            self._advertisement.on_announced = functools.partial(self._note, "discovery", "")
            closing.push_async_callback(self._advertisement.stop)
            self._spawn(self._advertise(self._advertisement))

    def _decide(self) -> None:
        began_s = time.monotonic()
        busy, away = self._intake.busy or not self._looked, self._intake.out_of_reach
        snapshot = runs.look(self._rooms, frozenset(self._forced), busy=busy, out_of_reach=away)
        wanted = next_action(snapshot, self._config.training, time.time())
        action = conditions.hold_back(wanted, self._machine.reading, self._config.conditions, time.time())
        self._action, self._due = action, wanted.kind == "train"
        if action.kind == "train" or not snapshot.busy or began_s > self._told_s + TELL_EVERY_S:
            self._tell()
        self._decided_in_s = time.monotonic() - began_s

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        news = {
            "recordings": asdict(self._rooms.library.counts()),
            "next": {"action": self._action.kind, "reason": self._action.reason, "tier": self._action.tier},
        }
        for kind, data in news.items():
            if data != self._told.get(kind):
                self._told[kind] = data
                self._on_event(kind, data)

    async def _sleep_until(self, at: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if at is None else max(0.0, at - time.time()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), max(REST_S, REST_FACTOR * self._decided_in_s))

    # Beside it

    async def _train(self, action: Action) -> None:
        assert action.tier is not None
        self._forced.discard(action.tier)
        watching = asyncio.create_task(self._watch_machine(action))
        try:
            with self._server.beside_training() if self._server else contextlib.nullcontext():
                run = await self._trainer.train(action.tier, action.run_id)
        finally:
            watching.cancel()
        if run is not None and run.state == "interrupted" and action.asked:
            self._forced.add(action.tier)  # a reload must not let it wait
        if run is None or run.state != "published":
            return
        await self._tell_devices()
        self._spawn(self._announce(notices.Notice.of(run)))

    async def _tell_devices(self) -> None:
        """There is a new manifest."""
        if self._server is not None:
            self._server.notify()
        if self._desktop is not None:
            self._desktop.notify()
        if self._advertisement is not None:
            await self._advertisement.update(self._rooms.store.version)

    async def _watch_machine(self, action: Action) -> None:
        """Pause the job where the machine is needed otherwise."""
        while True:
            await asyncio.sleep(conditions.CHECK_EVERY_S)
            if action.asked or action.tier in self._forced:
                continue
            reading = await asyncio.to_thread(self._machine.look)
            if missing := conditions.unmet(reading, self._config.conditions, running=True):
                _log.info("the training pauses, waiting for %s", missing.what)
                self._trainer.pause(missing.what)

    def _lacking(self) -> str:
        """Disk space, where it is too little for the settings; what the user asked for waits for nothing."""
        short = conditions.short_of_disk(self._machine.free_disk_bytes(), self._config.conditions)
        return short.what if short and not self._action.asked else ""

    async def _announce(self, notice: notices.Notice) -> None:
        self._note("notify", await notices.tell(notice, self._config.notify))

    async def _judge(self, device: Device, report: Report) -> None:
        canary = self._config.publish.canary
        with contextlib.suppress(StoreError, UsageError):  # the next report decides; of two called so neither does
            if not canary or self._rooms.devices.find(canary).id != device.id:
                return
            held = self._rooms.devices.held(device.id)
            if await asyncio.to_thread(publishing.judge, self._rooms.store, report, held):
                await self._tell_devices()

    async def _take_in(self) -> None:
        while True:
            try:
                await self._intake.rescan()  # nothing is decided on what stood in the folders last week
                self._looked = True
                self._warnings.pop("intake", None)
                self._wake.set()
                await self._intake.run()
            except Exception as error:  # serving what is published must not end because a folder makes trouble
                _log.exception("reading recordings failed")
                self._warn("intake", f"recordings are not read ({error}); trying again every minute")
            await asyncio.sleep(TROUBLE_PAUSE_S)

    async def _advertise(self, advertisement: Advertisement) -> None:
        if warning := await advertisement.start():
            self._warn("discovery", warning)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _command(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "train":
            tier = arguments.get("tier")
            if not isinstance(tier, str | None):
                raise UsageError(f"tier {tier!r} is no name", "name one of [training] tiers")
            return self._train_now(tier)
        if command in {"devices", "revoke", "pair"}:
            return await self._served().command(command, arguments)
        if command == "inbox":
            return review(self._rooms, arguments)
        if command in publishing.COMMANDS:
            before = self._rooms.store.version
            answer = await asyncio.to_thread(publishing.act, self._rooms.store, self._rooms.devices, command, arguments)
            if self._rooms.store.version != before:
                await self._tell_devices()
            return answer
        if command == "rescan":
            await self._intake.rescan()
        if command == "stop":
            self.stop()
        if command == "reload":
            self.reload()
        return self.status()

    def _served(self) -> Household:
        if self._household is None:
            raise UsageError("nothing is served here", "switch it on: [server] enabled = true in config.toml")
        return self._household

    def _train_now(self, tier: str | None) -> dict[str, Any]:
        tiers = [tier] if tier else list(self._config.training.tiers)
        if unknown := set(tiers) - set(self._config.training.tiers):
            known = ", ".join(self._config.training.tiers)
            raise UsageError(f"tier {unknown.pop()!r} is not in [training] tiers", f"there: {known}")
        if not self._rooms.library.counts().clips:
            raise DatasetError("no recording with a transcript yet", f"put some into {self._rooms.folders[0]}")
        cached = [tier for tier in tiers if self._rooms.is_cached(tier)]
        if not cached:
            bases = " ".join(self._config.base(tier) for tier in tiers)
            raise CheckpointError("the stock weights are not on this machine", f"run: idiolect models fetch {bases}")
        self._forced |= set(cached)
        self._wake.set()
        return {"tiers": cached, "after": self._trainer.job.run_dir.name if self._trainer.job else None}

    # Plumbing

    def _warn(self, about: str, message: str) -> None:
        self._warnings[about] = message
        self._on_event("warning", {"message": message})

    def _note(self, about: str, trouble: str) -> None:
        """A warning that stands until there is no more trouble ("")."""
        if not trouble:
            self._warnings.pop(about, None)
        elif trouble != self._warnings.get(about):
            _log.warning("%s", trouble)
            self._warn(about, trouble)

    def _refuse_settings(self, error: ConfigError) -> None:
        self._warn("settings", f"the new settings cannot be used ({error.message}); going on with the old ones")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        actions = {signal.SIGINT: self.stop, signal.SIGTERM: self.stop}
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            actions[signal.SIGHUP] = self._hang_up
        for number, action in actions.items():
            loop.add_signal_handler(number, action)
        try:
            yield
        finally:
            for number in actions:
                loop.remove_signal_handler(number)

    def _hang_up(self) -> None:
        """SIGHUP ends what a closed terminal leaves behind, and lets a service read its settings again."""
        if sys.stdin is not None and sys.stdin.isatty():
            self.stop()
            return
        try:
            self.reload()
        except ConfigError as error:
            self._refuse_settings(error)
