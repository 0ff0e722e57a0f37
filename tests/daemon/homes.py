"""A home with real recordings in it, and a daemon that lives in it while a test looks on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from daemon.config import ANY_TIME, Config, Export, Notify, Publish, Recordings, Server, Training
from daemon.paths import Paths
from daemon.run import Daemon
from training import base_models

VOICE = Path(base_models.__file__).parent / "data" / "voices" / "synthetic"
CONFIG = Config(
    recordings=Recordings(settle_s=0.05),
    training=Training(tiers=("nano",), first_run_minutes=0.0, quiet_s=0.0, min_new_clips=1),
    conditions=ANY_TIME,
    export=Export(profiles=("android-futo",)),
    notify=Notify(desktop=False),
    publish=Publish(),
    server=Server(port=0, discovery=False),
    profiles={"android-futo": {"tier": "nano"}},
)


def pipeline(mode: str) -> tuple[str, ...]:
    """The command of a job that behaves as `mode` of small_job.py says."""
    return (sys.executable, "-m", "tests.daemon.small_job", mode)


def changed(config: Config = CONFIG, **sections: dict[str, Any]) -> Config:
    """`config` with single settings replaced: changed(server={"port": 1})."""
    update = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=update)


def record(paths: Paths, *numbers: int) -> None:
    """Put demo recordings with their texts into the home's folder, each whole at once."""
    lines = (VOICE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    paths.recordings.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        clip = json.loads(lines[number])
        audio = paths.recordings / Path(clip["file_name"]).name
        audio.with_suffix(".txt").write_text(clip["text"], encoding="utf-8")
        part = audio.with_name(f".{audio.name}.part")
        shutil.copyfile(VOICE / clip["file_name"], part)
        part.rename(audio)


@contextlib.asynccontextmanager
async def living(daemon: Daemon) -> AsyncIterator[Daemon]:
    """The daemon runs while the block does. What ends it early is raised."""
    task = asyncio.create_task(daemon.serve())
    try:
        await until(lambda: task.done() or daemon.started)
        if task.done():
            await task
        yield daemon
    finally:
        daemon.stop()
        await asyncio.wait_for(task, 120)


async def until(condition: Callable[[], Any], wait_s: float = 600) -> None:
    """Return when `condition()` holds; TimeoutError when it does not come to that."""
    async with asyncio.timeout(wait_s):
        while not condition():
            await asyncio.sleep(0.02)


def states(daemon: Daemon) -> list[str]:
    """The states of the runs, newest first."""
    return [run["state"] for run in daemon.status()["runs"]]


def job_log(paths: Paths) -> list[str]:
    """What the jobs of this home noted: "start PID" and "end PID"."""
    log = paths.runs / "jobs.txt"
    return log.read_text().splitlines() if log.exists() else []
