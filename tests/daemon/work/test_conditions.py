"""When the machine is free for a training: every condition on both sides of its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.config import ANY_TIME, Conditions
from daemon.work.conditions import CHECK_EVERY_S, Reading, hold_back, unmet
from daemon.work.scheduler import Action

NOON, NIGHT = 12 * 60, 23 * 60
FREE = Reading(
    minute=NOON,
    on_battery=False,
    others_percent=3.0,
    calm_s=float("inf"),
    free_memory_bytes=8_000_000_000,
    free_disk_bytes=90_000_000_000,
)
DUE = Action("train", "6.7 of 5.0 minutes of speech; training tiny", "tiny")


@pytest.mark.parametrize(
    ("settings", "reading", "to_start", "to_go_on"),
    [
        ({}, {}, "", ""),
        ({"hours": ("22:00-07:00",)}, {"minute": NIGHT}, "", ""),
        ({"hours": ("22:00-07:00",)}, {"minute": 6 * 60 + 59}, "", ""),
        ({"hours": ("22:00-07:00",)}, {"minute": 7 * 60}, "hours", "hours"),
        ({"hours": ("22:00-07:00", "12:00-13:00")}, {"minute": NOON}, "", ""),
        ({"hours": ("08:00-08:00",)}, {"minute": NOON}, "", ""),
        ({}, {"on_battery": True}, "mains", "mains"),
        ({"on_battery": True}, {"on_battery": True}, "", ""),
        ({}, {"others_percent": 50.0}, "", ""),
        ({}, {"others_percent": 50.1}, "load", "load"),
        ({"max_load_percent": 100.0}, {"others_percent": 100.0, "calm_s": 0.0}, "", ""),
        ({}, {"calm_s": 119.0}, "load", ""),
        ({}, {"calm_s": 120.0}, "", ""),
        ({}, {"free_memory_bytes": 999_999_999}, "memory", ""),
        ({}, {"free_memory_bytes": 499_999_999}, "memory", "memory"),
        ({}, {"free_disk_bytes": 1_999_999_999}, "disk", ""),
        ({}, {"free_disk_bytes": 999_999_999}, "disk", "disk"),
        ({}, {"gpu_user": "blender"}, "gpu", "gpu"),
        ({"shared_gpu": True}, {"gpu_user": "blender"}, "", ""),
    ],
)
def test_each_condition(settings: dict[str, Any], reading: dict[str, Any], to_start: str, to_go_on: str) -> None:
    asked, seen = Conditions(**settings), replace(FREE, **reading)
    start, go_on = unmet(seen, asked, running=False), unmet(seen, asked, running=True)
    assert (start.name if start else "", go_on.name if go_on else "") == (to_start, to_go_on)


def test_it_says_what_is_waited_for_with_the_figure() -> None:
    def what(**reading: Any) -> str:  # noqa: ANN401
        found = unmet(replace(FREE, **reading), Conditions(hours=("12:00-13:00",)), running=False)
        assert found is not None
        return found.what

    assert what(minute=0) == "the hours 12:00-13:00"
    assert what(on_battery=True) == "mains power"
    assert what(free_disk_bytes=1_500_000_000) == "disk space: 1.5 of 2 GB are free"
    assert what(free_memory_bytes=300_000_000) == "memory: 0.3 of 1 GB are available"
    assert what(gpu_user="blender") == "the GPU, which blender uses"
    assert what(others_percent=81.0).endswith("other programs use 81 % of the processor, the limit is 50 %")
    assert what(calm_s=30.0).endswith("it is for 30 s, 90 s more are wanted")


def test_a_training_that_is_due_is_held_back_and_looked_at_again() -> None:
    held = hold_back(DUE, replace(FREE, on_battery=True), Conditions(), 1000.0)
    assert (held.kind, held.waits_for, held.at, held.tier) == ("wait", "mains", 1000.0 + CHECK_EVERY_S, "tiny")
    assert held.reason == "6.7 of 5.0 minutes of speech; training tiny; waiting for mains power"
    assert hold_back(DUE, FREE, Conditions(), 1000.0) == DUE


def test_what_the_user_asked_for_and_what_waits_anyway_is_not_held_back() -> None:
    busy = replace(FREE, on_battery=True, others_percent=100.0)
    for action in (replace(DUE, asked=True), Action("wait", "1.0 of 5.0 minutes")):
        assert hold_back(action, busy, Conditions(), 0.0) == action
    assert hold_back(DUE, busy, ANY_TIME, 0.0) == DUE
    assert hold_back(DUE, None, Conditions(), 0.0) == DUE
