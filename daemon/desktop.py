"""The models that this computer itself uses: `models/current/PROFILE`, the newest good one after each publication.

It is a client as any other device is, in a child process for the moment that a pull takes: the child finds the service
by this computer's own pairing, verifies, swaps, runs the user's hook and reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.sync.household import THIS_COMPUTER
from idiolect.child import PipeReporter, error_from, parse, run_child
from idiolect.errors import IdiolectError, NotPaired, UsageError
from idiolect.pairing import Pairings
from idiolect.wire import Manifest

RETRY_S = 60.0
CHILD = ("-m", "daemon.desktop")


class Desktop:
    """Keeps the folder while `keep` runs; `warn` hears what is wrong now, and "" when nothing is any more."""

    def __init__(self, rooms: Rooms, warn: Callable[[str], None]) -> None:
        self._rooms = rooms
        self._warn = warn
        self._news = asyncio.Event()

    def notify(self) -> None:
        """There is a new manifest."""
        self._news.set()

    async def keep(self) -> None:
        """Pull now and after each news, and again a minute after what went wrong."""
        while True:
            self._news.clear()
            trouble = await self._pull()
            self._warn(trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), RETRY_S if trouble else None)

    async def _pull(self) -> str:
        """What went wrong, or ""."""
        asked = errand(self._rooms.paths, self._rooms.config, self._rooms.store.repo, self._rooms.store.manifest)
        if not asked["profiles"]:
            return ""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *CHILD, json.dumps(asked)),
            stdin=asyncio.subprocess.PIPE,  # closed when this process dies, and then the child ends too
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout is not None
        trouble = "the child that pulls this computer's models died"
        try:
            async for line in process.stdout:
                if (message := parse(line.decode())) and message.kind in {"error", "done"}:
                    trouble = "" if message.kind == "done" else str(error_from(message))
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()  # at any moment: the folder shows one version or the other
                await process.wait()
        return trouble and f"models/current is not up to date: {trouble}"


def errand(paths: Paths, config: Config, repo: str, manifest: Manifest | None) -> dict[str, Any]:
    """What the child is asked to do: `profiles` are those of [desktop] profiles that something is published for."""
    settings, canary = config.desktop, config.publish.canary == THIS_COMPUTER
    channel = "beta" if canary and settings.hook else "stable"  # only a hook can tell whether a release is good
    current = [each for each in settings.profiles if manifest and manifest.current(each, channel)]
    return {
        "profiles": current,
        "into": str(paths.models / "current"),
        "channel": channel,
        "hook": list(settings.hook),
        "pairings": str(paths.pairings),
        "repo": repo,
    }


def pull(asked: dict[str, Any]) -> dict[str, Any]:
    """Do that errand; a profile that fails does not keep the next from its pull. Raises IdiolectError."""
    from idiolect.client import Client  # here, as the resident process does without them
    from idiolect.hook import Hook

    folder = Path(asked["into"])
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link", "remove it; the daemon makes a folder of links there, one each profile")
    pairing = next((each for each in Pairings(Path(asked["pairings"])).all() if each.id == asked["repo"]), None)
    if pairing is None:
        raise NotPaired("this computer is not paired with itself", "`idiolect reload` pairs it")
    hook = Hook(asked["hook"]) if asked["hook"] else None
    failure = None
    for profile in asked["profiles"]:
        try:
            client = Client(folder / profile, profile, pairing=pairing, channel=asked["channel"])
            client.settle(client.pull(), hook)
        except IdiolectError as error:
            failure = error
    if failure:
        raise failure
    return {}


def _work(reporter: PipeReporter) -> dict[str, Any]:
    def leave() -> None:
        reporter.stop.wait()
        os._exit(130)  # nothing to tidy: the next pull goes on from whatever is there

    threading.Thread(target=leave, daemon=True).start()
    return pull(json.loads(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(run_child(_work))
