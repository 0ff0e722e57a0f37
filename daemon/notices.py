"""Tells the user of a new model: a notice on the desktop, and a command of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from daemon.config import Notify
from daemon.intake.library import Run
from daemon.logs import one_line

COMMAND_WAIT_S = 60.0
TITLE = "idiolect"

_log = logging.getLogger("idiolect")


@dataclass(frozen=True)
class Notice:
    """One published model; WERs as fractions."""

    tier: str
    release: str
    wer_stock: float
    wer_tuned: float

    @classmethod
    def of(cls, run: Run) -> Notice:
        """From a published run."""
        summary = run.summary or {}
        return cls(run.tier, run.release_id or "", summary.get("wer_stock", 0.0), summary.get("wer_tuned", 0.0))

    def __str__(self) -> str:
        """As in "Small: 12 % → 7 %" of the words wrong."""
        before, after = self.wer_stock * 100, self.wer_tuned * 100
        digits = 0 if round(before) != round(after) else 1
        return one_line(f"{self.tier.capitalize()}: {before:.{digits}f} % → {after:.{digits}f} %")

    def environment(self) -> dict[str, str]:
        """What the user's command may read beside its last argument."""
        return {
            "IDIOLECT_TIER": self.tier,
            "IDIOLECT_RELEASE": self.release,
            "IDIOLECT_WER_STOCK": f"{self.wer_stock:.4f}",
            "IDIOLECT_WER_TUNED": f"{self.wer_tuned:.4f}",
        }


async def tell(notice: Notice, settings: Notify) -> str:
    """Show the notice and run the user's command; "" or what went wrong with the command."""
    if settings.desktop and (command := desktop_command(str(notice))):
        await _run(command, {})  # a machine without a desktop is no trouble
    if not settings.on_publish:
        return ""
    trouble = await _run([*settings.on_publish, str(notice)], notice.environment())
    return f"[notify] on_publish: {settings.on_publish[0]} {trouble}" if trouble else ""


def desktop_command(
    text: str, system: str = sys.platform, which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """What shows `text` on this system's desktop; empty where nothing can. `text` is never part of a script."""
    for tool, arguments in _DESKTOP.get(system, _DESKTOP["linux"]):
        if found := which(tool):
            return [found, *arguments, text]
    return []


_APPLESCRIPT = 'on run argv\ndisplay notification (item 1 of argv) with title "idiolect"\nend run'
_DESKTOP: Mapping[str, Sequence[tuple[str, list[str]]]] = {
    "darwin": [("osascript", ["-e", _APPLESCRIPT])],
    "win32": [("msg", ["*", "/TIME:30"])],
    "linux": [("notify-send", ["--app-name=idiolect", TITLE])],
}


async def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run to the end, COMMAND_WAIT_S at most; "" or what went wrong."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    try:
        status = await asyncio.wait_for(process.wait(), COMMAND_WAIT_S)
    except TimeoutError:
        return f"took longer than {COMMAND_WAIT_S:.0f} s and was ended"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return "" if status == 0 else f"ended with status {status}"
