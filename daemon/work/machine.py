"""Reads the machine for daemon.work.conditions: processor, memory, disk, battery, GPU."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from daemon.work.conditions import Reading
from idiolect.files import free_bytes

WINDOW_S = 1.0
STALE_S = 300.0
"""A load is measured since the last look, or over WINDOW_S where there was none for so long."""
GPU_WAIT_S = 3.0


class Machine:
    """Make one for a daemon. `state` is the folder whose disk counts, `max_load_percent` where calm ends."""

    def __init__(self, state: Path, max_load_percent: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.reading: Reading | None = None
        """What the last look saw."""
        self._state = state
        self._max_load_percent = max_load_percent
        self._sleep = sleep
        self._before: tuple[float, float, float] | None = None
        self._busy_at: float | None = None

    def look(self) -> Reading:
        """Read everything; takes up to a second or so, so call it in a thread."""
        load = self._others_percent()
        now_s = time.monotonic()
        if load > self._max_load_percent:
            self._busy_at = now_s
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        local = time.localtime()
        self.reading = Reading(
            minute=local.tm_hour * 60 + local.tm_min,
            on_battery=battery is not None and battery.power_plugged is False,
            others_percent=load,
            calm_s=float("inf") if self._busy_at is None else now_s - self._busy_at,
            free_memory_bytes=psutil.virtual_memory().available,
            free_disk_bytes=self.free_disk_bytes(),
            gpu_user=gpu_user(),
        )
        return self.reading

    def free_disk_bytes(self) -> int:
        """What is free on the disk now."""
        return free_bytes(self._state)

    def _others_percent(self) -> float:
        before = self._before
        if before is None or time.monotonic() - before[0] > STALE_S:
            before = _times_s()
            self._sleep(WINDOW_S)
        elif time.monotonic() - before[0] < WINDOW_S / 2 and self.reading:
            return self.reading.others_percent  # too short a while to tell
        self._before = after = _times_s()
        _, busy_s, own_s = (late - early for late, early in zip(after, before, strict=True))
        elapsed_s = (after[0] - before[0]) * (psutil.cpu_count() or 1)
        return min(100.0, max(0.0, (busy_s - own_s) / max(elapsed_s, 1e-6) * 100))


def gpu_user() -> str:
    """The name of a program that computes on an NVIDIA GPU and is not this process or its child; "" for none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-compute-apps=pid,process_name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=GPU_WAIT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return other_user(answer, {process.pid for process in _own()})


def other_user(answer: str, own: set[int]) -> str:
    """The first program in nvidia-smi's "pid, name" lines that is not among `own`."""
    for line in answer.splitlines():
        pid, _, name = line.partition(",")
        if pid.strip().isdecimal() and int(pid) not in own:
            return Path(name.strip()).name or f"process {pid.strip()}"
    return ""


def _own() -> list[psutil.Process]:
    this = psutil.Process()
    with contextlib.suppress(psutil.Error):  # processes come and go meanwhile
        return [this, *this.children(recursive=True)]
    return [this]


def _times_s() -> tuple[float, float, float]:
    """(now, processor seconds that all processors worked, those that this process and its children did)."""
    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    # guest time is counted within user time
    busy_s = sum(times) - idle_s - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    own_s = 0.0
    for process in _own():
        with contextlib.suppress(psutil.Error):
            own_s += sum(process.cpu_times()[:4])  # with the children that have ended
    return time.monotonic(), busy_s, own_s
