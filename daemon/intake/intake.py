"""Watched folders to library: every recording that settled is read once, and again when it or its text changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from daemon.intake.library import Known, Library
from daemon.intake.outlook import PATIENCE_S, SILENT, Look, Outlook
from daemon.intake.reader import Reader
from daemon.intake.reading import Reading, Request
from daemon.intake.scan import Listing, Settling, Stamp, is_below, is_usable_name, readable
from daemon.intake.watcher import Watcher, falls_short, watches_held
from idiolect.errors import JobError

MAX_READERS = 4
"""How many recordings are read at once, where there are as many processors: the first look at a large folder."""
POLL_S = 5.0
"""How often to look where no events come: on network mounts, and for a folder that is missing."""
_MIN_SPACING_S = 0.2
_NAMED = 3
_REST_FACTOR = 10  # listing a large folder costs so many times its length of rest while files arrive …
_POLL_REST_FACTOR = 100  # … and so many when nothing tells of changes: 1 % of one core
_CREDIT_S = 5.0  # so much rest may be taken later: a single recording need not wait for it


class Intake:
    """Keeps the library in step with `folders`; the only one that writes recordings to it.

    A recording is read when it and its text stood still for `settle_s`. Folders are looked through whenever the
    system tells of a change, every `rescan_s` besides, and every few seconds where it cannot tell (`polling`: never
    ask it). `on_change` is called after each change of the library, and when `busy` ends.
    """

    def __init__(
        self,
        library: Library,
        folders: Sequence[Path],
        settle_s: float,
        rescan_s: float,
        polling: bool = False,
        reader: Reader | None = None,
        language: str = "en",
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._library = library
        named = (Path(os.path.abspath(folder)) for folder in folders)  # noqa: PTH100  links stay as named
        self._outlooks = {folder: Outlook(folder) for folder in named}
        self._settle_s = settle_s
        self._rescan_s = rescan_s
        self._polling = polling
        self._language = language
        self._readers = (reader,) if reader else tuple(Reader() for _ in range(min(MAX_READERS, os.cpu_count() or 1)))
        self._settling = Settling(settle_s)
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()
        self._retrying: set[str] = set()
        self._again_s: dict[str, float] = {}
        self._busy = False
        self._list_s = self._rested_at_s = 0.0
        self._told = False
        self._folders_seen: set[int] = set()
        self._folders_watched: set[int] = set()
        self._short_of_watches = False
        self._mounts = library.mounts()
        self._away: set[str] = set()
        self._out_of_reach = ""
        self._problems: tuple[str, ...] = ()
        self._remarks: tuple[str, ...] = ()
        self._watch_problems: tuple[str, ...] = ()
        self._few_watches: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether recordings are settling or being read."""
        return self._busy

    @property
    def out_of_reach(self) -> str:
        """How many known recordings lie in folders that cannot be looked into now, in words; "" where none do."""
        return self._out_of_reach

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps recordings from being seen now: folders that are missing or closed, no reader, no events.

        And what a sync tool left behind that only a person can settle.
        """
        return self._problems + self._watch_problems + self._few_watches + self._remarks

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        for outlook in self._outlooks.values():
            outlook.watch(lambda: loop.call_soon_threadsafe(self._woken.set), self._polling)
        full_look_at_s = 0.0
        try:
            while True:
                self._woken.clear()
                full = time.monotonic() >= full_look_at_s
                if full:
                    full_look_at_s = time.monotonic() + self._rescan_s
                await self._look(retry=full)
                next_look_at_s = min([full_look_at_s, *self._again_s.values()])
                await self._wait(self._all_watched() and self._told, next_look_at_s - time.monotonic())
        finally:
            await asyncio.gather(self.close(), *(outlook.close() for outlook in self._outlooks.values()))

    async def rescan(self) -> None:
        """Look through the folders now and read what has settled; works without `run` too, then `close` after it."""
        if await self._look(retry=True):
            await asyncio.sleep(self._settle_s)
            await self._look()

    async def close(self) -> None:
        """End the workers; `run` does it by itself."""
        for reader in self._readers:
            await reader.close()

    def _all_watched(self) -> bool:
        """Whether the system watches every folder, and not only as many as its limit allows; asked when they change.

        When it did not, it is asked again: a new folder is watched a moment after it was seen.
        """
        self._few_watches = ()
        if not any(watcher.watching for watcher in self._watchers()):
            return True  # the look has said so
        if self._short_of_watches or self._folders_seen != self._folders_watched:
            held = watches_held()
            self._short_of_watches = held is not None and falls_short(held, self._folders_seen)
            self._folders_watched = self._folders_seen
        if self._short_of_watches:
            self._few_watches = (
                f"the system watches fewer folders than the {len(self._folders_seen)} there are; looking every few "
                "seconds instead (on Linux, raise fs.inotify.max_user_watches and start again)",
            )
        return not self._short_of_watches

    def _watchers(self) -> list[Watcher]:
        return [outlook.watcher for outlook in self._outlooks.values() if outlook.watcher is not None]

    async def _wait(self, told: bool, at_most_s: float) -> None:
        """Until the next look: soon while something settles, else when woken or when it is time."""
        looked_at_s = time.monotonic()
        self._rested_at_s = max(looked_at_s, self._rested_at_s) + self._list_s * _REST_FACTOR
        rest_s = self._rested_at_s - _CREDIT_S - looked_at_s
        if self._busy:
            await asyncio.sleep(max(self._settling.due_s - looked_at_s, rest_s, _MIN_SPACING_S))
            return
        if not told or self._problems:
            at_most_s = min(at_most_s, max(POLL_S, self._list_s * _POLL_REST_FACTOR))
        until_s = looked_at_s + max(at_most_s, rest_s, _MIN_SPACING_S)
        while not self._woken.is_set() and (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):  # no event tells of a disk that comes or goes
                await asyncio.wait_for(self._woken.wait(), min(left_s, POLL_S))
            if any([await outlook.changed(self._mounts, self._away) for outlook in self._outlooks.values()]):
                break
        if self._woken.is_set():
            await asyncio.sleep(max(_MIN_SPACING_S, looked_at_s + rest_s - time.monotonic()))  # one look for a burst

    async def _look(self, retry: bool = False) -> int:
        """One look through all folders; how many recordings have yet to settle.

        With `retry`, recordings whose trouble may have passed by itself are read again. What hinders every
        recording (no worker, a full disk) becomes a warning, and the next look tries again.
        """
        async with self._turn:
            try:
                settling = await self._look_through(retry)
            except (JobError, sqlite3.Error) as error:
                self._problems += (f"recordings cannot be taken in now: {error}",)
                settling = 0
            self._set_busy(settling > 0)
            return settling

    async def _look_through(self, retry: bool) -> int:
        began_s = time.monotonic()
        found, listings = await self._list()
        known = self._library.known()
        if retry:
            self._library.forget_gone()
            self._retrying |= {path for path, last in known.items() if last.retry}
        self._retrying |= {path for path, at_s in self._again_s.items() if at_s <= began_s}
        self._again_s = {path: at_s for path, at_s in self._again_s.items() if at_s > began_s}
        self._note_absence(found, listings, known)
        changed = {
            path: stamp
            for path, (_, stamp) in found.items()
            if path not in known or stamp.differs(known[path].stamp) or path in self._retrying
        }
        same = ((path, stamp) for path, (_, stamp) in found.items() if path not in changed)
        self._library.identify({path: stamp for path, stamp in same if stamp != known[path].stamp})
        settled = self._settling.settled(changed, began_s)
        self._set_busy(bool(changed))
        if changed and not settled:
            await self._readers[0].warm()  # while they settle
        await self._read_all([(path, *found[path], known.get(path)) for path in settled])
        return len(changed) - len(settled)

    async def _read_all(self, settled: Sequence[tuple[str, Path | None, Stamp, Known | None]]) -> None:
        """Read one after the other, as many at once as there are readers; the first error ends all."""
        remaining = iter(settled)

        async def read(reader: Reader) -> None:
            for each in remaining:
                await self._read(reader, *each)

        tasks = [asyncio.create_task(read(reader)) for reader in self._readers[: len(settled)]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _set_busy(self, busy: bool) -> None:
        was_busy, self._busy = self._busy, busy
        if was_busy and not busy:
            self.on_change()

    async def _list(self) -> tuple[dict[str, tuple[Path | None, Stamp]], list[Listing]]:
        """What is there: by path, the watched folder (None where the name cannot be used) and the stamp."""
        found: dict[str, tuple[Path | None, Stamp]] = {}
        outlooks = self._outlooks.values()
        looks = await asyncio.gather(*(outlook.look(self._mounts) for outlook in outlooks))
        listings = [look.listing for look in looks]
        self._told = all(look.told for look in looks)
        self._list_s = sum(look.took_s for look in looks)
        for folder, listing in zip(self._outlooks, listings, strict=True):
            for path, stamp in listing.recordings.items():
                if is_usable_name(path):  # what was said of it is true for the language it was judged in
                    found.setdefault(path, (folder, replace(stamp, texts=f"{stamp.texts}{self._language}")))
                else:
                    found.setdefault(readable(path), (None, stamp))
        self._folders_seen = set().union(*(look.listing.folders for look in looks if look.told))  # where events come
        self._note_mounts(found, looks)
        closed = {at: why for listing in listings for at, why in listing.unreadable.items()}
        self._problems = tuple(_closed(at, why) for at, why in closed.items())
        self._watch_problems = tuple(watcher.problem for watcher in self._watchers() if watcher.problem)
        self._remarks = tuple(_remarks(listings))
        return found, listings

    def _note_mounts(self, found: Mapping[str, object], looks: Sequence[Look]) -> None:
        """Where recordings lie on a disk of its own, an empty folder later means that the disk is away."""
        parents = {os.path.dirname(path) for path in found}  # noqa: PTH120
        mounts, self._away = set[str](), set[str]()
        for outlook, look in zip(self._outlooks.values(), looks, strict=True):
            known = outlook.holding(self._mounts)
            if outlook.silent:
                mounts |= known
                continue
            for mount in known | look.mounted:
                holds = any(is_below(parent, mount) for parent in parents)
                if mount not in look.mounted and not holds:
                    look.listing.unreadable.setdefault(mount, "the disk that held its recordings is away")
                    self._away.add(mount)
                unseen = any(is_below(at, mount) or is_below(mount, at) for at in look.listing.unreadable)
                if holds is (mount in look.mounted) or unseen:
                    mounts.add(mount)
        if mounts != self._mounts:
            self._library.set_mounts(mounts)
            self._mounts = mounts

    def _note_absence(
        self, found: Mapping[str, tuple[Path | None, Stamp]], listings: Sequence[Listing], known: Mapping[str, Known]
    ) -> None:
        """Recordings that left, and those that came back as they were. What cannot be seen has not left."""
        missing = [path for path, last in known.items() if not last.gone and path not in found]
        left = [path for path in missing if not any(listing.hides(path) for listing in listings)]
        closed = [folder for listing in listings for folder in listing.unreadable]
        hidden = sum(any(is_below(path, folder) for folder in closed) for path in missing)
        said = f"{hidden} recording{'s' if hidden > 1 else ''} in {_some(closed)}" if hidden else ""
        reachable, self._out_of_reach = said != self._out_of_reach, said
        back = [
            path
            for path, last in known.items()
            if last.gone and path in found and not found[path][1].differs(last.stamp)
        ]
        if left or back:
            self._library.set_gone(left, gone=True)
            self._library.set_gone(back, gone=False)
        if left or back or reachable:
            self.on_change()

    async def _read(self, reader: Reader, path: str, folder: Path | None, stamp: Stamp, last: Known | None) -> None:
        if folder is None:
            reading = Reading(state="rejected", reason="its name is not valid UTF-8: rename it")
        else:
            heard = last is not None and last.stamp.same_audio(stamp) and not last.retry
            sound = self._library.sound(path) if heard else None
            still_s = None if heard else abs(time.time() - stamp.mtime_ns / 1e9)  # of a clock that is ahead, too
            request = Request(path=Path(path), folder=folder, language=self._language, sound=sound, still_s=still_s)
            answer = await self._ask(reader, request)
            if answer is None:
                return
            reading = answer
        self._retrying.discard(path)
        if reading.again_s is not None:
            self._again_s[path] = time.monotonic() + reading.again_s
        self._library.record(path, stamp, reading)
        self.on_change()

    async def _ask(self, reader: Reader, request: Request) -> Reading | None:
        """None where there is nothing to say now: its folder answers no longer, or the recording left while it was
        read; the next look will tell."""
        outlook = self._outlooks[request.folder]
        if outlook.silent:
            return None
        reading = asyncio.create_task(reader.read(request))
        try:
            while not (await asyncio.wait({reading}, timeout=PATIENCE_S))[0]:
                if not await outlook.answers():
                    self._problems += (_closed(str(outlook.folder), SILENT),)
                    return None
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        found = reading.result()
        return None if found.retry and not await outlook.has(request.path) else found


def _closed(folder: str, why: str) -> str:
    return f"{readable(folder)}: cannot be looked into: {why}"


def _remarks(listings: Sequence[Listing]) -> Iterator[str]:
    conflicts = sorted(path for listing in listings for path in listing.conflicts)
    if conflicts:
        said = "conflict copy is" if len(conflicts) == 1 else "conflict copies are"
        yield (
            f"{len(conflicts)} {said} not learned from ({_some(conflicts)}): "
            "keep the better version under the first name and delete the other"
        )
    remote = sorted(path for listing in listings for path in listing.remote - listing.recordings.keys())
    if remote:
        said = "recording is" if len(remote) == 1 else "recordings are"
        yield f"{len(remote)} {said} only on the sync tool's server ({_some(remote)}): have them kept on this machine"


def _some(paths: Sequence[str]) -> str:
    return ", ".join(map(readable, paths[:_NAMED])) + (", …" if len(paths) > _NAMED else "")
