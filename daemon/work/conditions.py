"""Whether the machine is free for a training: a pure function of one reading, the settings and what runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from daemon.config import Conditions
from daemon.work.scheduler import Action

CHECK_EVERY_S = 30.0
"""How often the machine is looked at, while a training is due or runs. At other times it is not."""
GB = 1e9

Name = Literal["hours", "mains", "disk", "memory", "gpu", "load"]


@dataclass(frozen=True)
class Reading:
    """The machine at one moment."""

    minute: int  # of the day, local time
    on_battery: bool
    others_percent: float  # of the whole processor, used by programs that are not idiolect's
    calm_s: float  # since others_percent was last above the limit
    free_memory_bytes: int
    free_disk_bytes: int
    gpu_user: str = ""  # another program that computes on the GPU


@dataclass(frozen=True)
class Unmet:
    """A condition that does not hold, and in words what is waited for."""

    name: Name
    what: str


def unmet(reading: Reading, settings: Conditions, *, running: bool) -> Unmet | None:
    """The first condition that does not hold, for starting a training or for going on with one that is `running`.

    A running one has used memory and disk itself, so it is only held to half of what a start needs.
    """
    share = 0.5 if running else 1.0
    if settings.hours and not any(_within(reading.minute, hours) for hours in settings.hours):
        return Unmet("hours", f"the hours {_or(settings.hours)}")
    if reading.on_battery and not settings.on_battery:
        return Unmet("mains", "mains power")
    if short := short_of_disk(reading.free_disk_bytes, settings, share):
        return short
    if reading.free_memory_bytes < settings.min_free_memory_gb * GB * share:
        free, need = reading.free_memory_bytes / GB, settings.min_free_memory_gb
        return Unmet("memory", f"memory: {free:.1f} of {need:g} GB are available")
    if reading.gpu_user and not settings.shared_gpu:
        return Unmet("gpu", f"the GPU, which {reading.gpu_user} uses")
    return _load(reading, settings, running)


def short_of_disk(free_bytes: int, settings: Conditions, share: float = 1.0) -> Unmet | None:
    """Disk space as a condition; `share` of what the settings ask for does."""
    need = settings.min_free_disk_gb
    if free_bytes >= need * GB * share:
        return None
    return Unmet("disk", f"disk space: {free_bytes / GB:.1f} of {need:g} GB are free")


def hold_back(action: Action, reading: Reading | None, settings: Conditions, now: float) -> Action:
    """`action`, or the wait in its place where the machine is not free. What the user asked for is never held back."""
    if action.kind != "train" or action.asked or reading is None:
        return action
    missing = unmet(reading, settings, running=False)
    if missing is None:
        return action
    reason = f"{action.reason}; waiting for {missing.what}"
    return replace(action, kind="wait", reason=reason, at=now + CHECK_EVERY_S, waits_for=missing.name)


def _load(reading: Reading, settings: Conditions, running: bool) -> Unmet | None:
    limit = settings.max_load_percent
    if limit >= 100:
        return None
    if reading.others_percent > limit:
        what = f"a calmer machine: other programs use {reading.others_percent:.0f} % of the processor"
        return Unmet("load", f"{what}, the limit is {limit:g} %")
    if not running and reading.calm_s < settings.calm_minutes * 60:
        left_s = settings.calm_minutes * 60 - reading.calm_s
        return Unmet("load", f"a calmer machine: it is for {reading.calm_s:.0f} s, {left_s:.0f} s more are wanted")
    return None


def _within(minute: int, hours: str) -> bool:
    """Whether "22:00-07:00" holds the minute; its end does not belong to it, and equal ends are the whole day."""
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
    return (minute - begin) % 1440 < ((end - begin) % 1440 or 1440)


def _or(parts: Sequence[str]) -> str:
    return " or ".join(parts)
