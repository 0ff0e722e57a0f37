"""What months cost: `python -m benchmarks.idle [SECONDS]` (600).

First real idleness of the real daemon over SECONDS. Then a day of ticks in a few minutes: the daemon in a process whose
clock jumps to the next thing that anybody waits for, with a folder that is polled, which ticks most often, and a
supervisor that wants to hear that it lives. Neither memory nor log may grow. Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.resident import VOICE, cpu_s, daemon, wait_until_idle
from daemon.config import Config, Notify, Recordings, Server, Training
from daemon.paths import Paths

MAX_CPU_PERCENT = 0.2
MAX_GROWTH_MB = 5.0
MAX_LOG_GROWTH_BYTES = 10_000
DAY_S = 86_400.0
WARM_UP_S = 3_600.0  # of false time, before the first figure
RECORDINGS = 40
REAL_WAIT_S = 0.002
"""So long the false clock stands still for threads and sockets before it jumps."""


def main() -> int:
    """Measure and print."""
    if sys.argv[1:2] == ["day"]:
        return a_day(Path(sys.argv[2]))
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.at(Path(folder))
        with daemon(paths) as (process, _):
            wait_until_idle(paths, process)
            before_s = cpu_s(process)
            time.sleep(seconds)
            percent = (cpu_s(process) - before_s) / seconds * 100
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.idle", "day", folder], stdout=subprocess.PIPE, check=True
        )
    day = json.loads(done.stdout)
    rows = [
        (f"processor over {seconds:.0f} s idle", percent, MAX_CPU_PERCENT, "%"),
        ("memory grown in a day of ticks", day["grown_bytes"] / 1e6, MAX_GROWTH_MB, "MB"),
        ("log grown in a day of ticks", day["log_bytes"], MAX_LOG_GROWTH_BYTES, "B"),
    ]
    for name, value, limit, unit in rows:
        print(f"{name:<32} {value:8.3f} {unit:<2}  limit {limit:g} {unit:<2} {'ok' if value <= limit else 'MISSED'}")
    print(f"({day['ticks']} ticks of the loop, {day['alive']} signs of life, {day['real_s']:.0f} s)")
    return int(any(value > limit for _, value, limit, _ in rows))


class FalseClock(selectors.DefaultSelector):
    """A selector that does not wait: where nothing happens, the time that was to be waited is over."""

    def __init__(self) -> None:
        super().__init__()
        self.offset_s = 0.0
        self.ticks = 0
        for name in ("monotonic", "time"):
            setattr(time, name, self._shifted(getattr(time, name)))

    def _shifted(self, real: Any) -> Any:  # noqa: ANN401
        return lambda: real() + self.offset_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the base class, but `timeout` passes at once."""
        self.ticks += 1
        found = super().select(REAL_WAIT_S if timeout is None else min(timeout, REAL_WAIT_S))
        if not found and timeout:
            self.offset_s += timeout
        return found


def a_day(folder: Path) -> int:
    """In a process of its own: live a day of false time in `folder`, and print what it cost as JSON."""
    clock = FalseClock()
    began_s = time.perf_counter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(folder / "notify"))
        supervisor.setblocking(False)
        os.environ |= {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(300_000_000)}
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(clock)) as runner:
            found = runner.run(_live(Paths.at(folder / "home"), clock, supervisor))
    print(json.dumps({**found, "ticks": clock.ticks, "real_s": time.perf_counter() - began_s}))
    return 0


async def _live(paths: Paths, clock: FalseClock, supervisor: socket.socket) -> dict[str, float]:
    from daemon.run import Daemon

    config = Config(
        recordings=Recordings(settle_s=0.1, polling=True),
        training=Training(tiers=("nano",), first_run_minutes=10_000.0),
        notify=Notify(desktop=False),
        server=Server(port=0, discovery=False),
    )
    paths.recordings.mkdir(parents=True)
    shutil.copyfile(VOICE / "metadata.jsonl", paths.recordings / "metadata.jsonl")
    for file in sorted(VOICE.glob("*.ogg"))[:RECORDINGS]:
        shutil.copyfile(file, paths.recordings / file.name)
    living = Daemon(paths, config)
    task = asyncio.create_task(living.serve())
    while not living.started or living.status()["recordings"]["ready"] < RECORDINGS:
        await asyncio.sleep(1)
    await asyncio.sleep(WARM_UP_S)
    before_bytes, log_bytes = psutil.Process().memory_info().rss, _log_bytes(paths)
    alive, end_s = 0, time.time() + DAY_S
    while time.time() < end_s:
        await asyncio.sleep(600)
        with contextlib.suppress(BlockingIOError):
            while True:
                alive += supervisor.recv(100) == b"WATCHDOG=1"
    found: dict[str, float] = {
        "grown_bytes": psutil.Process().memory_info().rss - before_bytes,
        "log_bytes": _log_bytes(paths) - log_bytes,
        "alive": alive,
    }
    living.stop()
    await task
    return found


def _log_bytes(paths: Paths) -> int:
    return sum(file.stat().st_size for file in paths.state.glob("daemon.log*"))


if __name__ == "__main__":
    sys.exit(main())
