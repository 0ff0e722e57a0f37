"""One watched folder seen from a thread: what lies in it, whether events come, and whether it answers at all."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from daemon.intake.errand import Errand, Late
from daemon.intake.scan import Listing, is_below, is_mount, scan
from daemon.intake.watcher import Watcher

PATIENCE_S = 10.0
"""A look may take longer, in a large folder far away; the other folders wait no longer for it."""
PULSE_S = 2.0
_FAREWELL_S = 1.0
SILENT = "the folder does not answer"


@dataclass(frozen=True)
class Look:
    """What was seen: `mounted`, where another file system begins, and `took_s`, the processor time of looking."""

    listing: Listing
    mounted: frozenset[str] = frozenset()
    took_s: float = 0.0
    told: bool = False
    """The system tells of changes."""


class Outlook:
    """On `folder`. No call blocks, and of those that the file system does not answer there is never a second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.silent = False
        """It did not answer when it was last asked."""
        self.watcher: Watcher | None = None
        self._looking: Errand[Look] | None = None

    def watch(self, wake: Callable[[], object], polling: bool) -> None:
        """From the next look on `wake` is called, from another thread, when something changes; see Watcher."""
        self.watcher = Watcher(self.folder, wake, polling)

    async def look(self, mounts: Collection[str]) -> Look:
        """What is there now, and which of `mounts` still are. A late answer is given to the call after it."""
        self._looking = errand = self._looking or Errand(functools.partial(self._look, self.holding(mounts)))
        try:
            found = await errand.result(PATIENCE_S)
        except Late:
            self.silent = True
            return Look(Listing(unreadable={str(self.folder): SILENT}))
        except Exception:
            self._looking = None
            raise
        self._looking = None
        self.silent = False
        return found

    async def changed(self, mounts: Collection[str], away: Collection[str]) -> bool:
        """Whether the folder or a disk in it came or went since the last look, or it stopped answering.

        Cheap enough to ask all day.
        """
        if self.silent:  # the next look tells
            return False
        mounts, away = self.holding(mounts), self.holding(away)
        watcher = self.watcher
        try:
            return await Errand(lambda: bool(watcher and watcher.stale) or _unmounted(mounts) != away).result(PULSE_S)
        except Late:
            return True

    async def answers(self) -> bool:
        """Whether it answers now."""
        await self.has(self.folder)
        return not self.silent

    async def has(self, path: Path) -> bool:
        """Whether there is something at `path`, which lies in it; not where it does not answer."""
        try:
            return await Errand(functools.partial(os.path.lexists, path)).result(PULSE_S)
        except Late:
            self.silent = True
            return False

    async def close(self) -> None:
        """Watch no longer."""
        with contextlib.suppress(Late):
            if self._looking is not None:
                await self._looking.result(_FAREWELL_S)
        if self.watcher is not None:
            self.watcher.stop()

    def holding(self, paths: Collection[str]) -> frozenset[str]:
        """Those of `paths` that lie in the folder."""
        return frozenset(path for path in paths if is_below(path, str(self.folder)))

    def _look(self, mounts: frozenset[str]) -> Look:
        told = self.watcher is not None and self.watcher.check()  # before the look: a later change wakes
        began_s = time.thread_time()  # on a busy machine the clock would make it rest for minutes
        listing = scan(self.folder)
        mounted = (mounts | listing.mounts) - _unmounted(mounts | listing.mounts)
        return Look(listing, mounted, time.thread_time() - began_s, told)


def _unmounted(mounts: frozenset[str]) -> frozenset[str]:
    return frozenset(mount for mount in mounts if not is_mount(mount))
