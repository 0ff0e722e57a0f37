"""What happens next: every threshold on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.config import Training
from daemon.work.scheduler import SAME_TRIES, Action, Failure, Snapshot, TierState, next_action

NOW = 1_000_000.0
SETTINGS = Training(tiers=("tiny", "small"))
FRESH = TierState("tiny", cached=True, new_clips=50, new_s=400, trained_s=0)
TRAINED = replace(FRESH, trained_s=3600)
FAILED = replace(FRESH, failure=Failure(at=NOW - 30, count=1, reason="out of memory", new_clips=0))


def decide(*tiers: TierState, settings: Training = SETTINGS, now: float = NOW, **snapshot: object) -> Action:
    ready = max((tier.new_clips for tier in tiers), default=0)
    return next_action(Snapshot(tiers, **{"ready_clips": ready, **snapshot}), settings, now)  # type: ignore[arg-type]


def test_no_tiers_is_nothing_to_do() -> None:
    assert decide().kind == "nothing"


def test_no_recordings_is_waiting() -> None:
    assert decide(replace(FRESH, new_clips=0, new_s=0)).reason == "no recording with a transcript yet"


@pytest.mark.parametrize(("new_s", "kind"), [(299.9, "wait"), (300.0, "train")])
def test_the_first_run_starts_at_five_minutes(new_s: float, kind: str) -> None:
    action = decide(replace(FRESH, new_s=new_s))
    assert (action.kind, action.tier) == (kind, "tiny")


def test_a_first_run_does_not_start_on_nothing() -> None:
    settings = SETTINGS.model_copy(update={"first_run_minutes": 0.0})
    assert decide(replace(FRESH, new_clips=0, new_s=0), settings=settings, ready_clips=3).kind == "wait"


@pytest.mark.parametrize(
    ("new_s", "new_clips", "trained_s", "kind"),
    [
        (1199, 99, 3600, "wait"),
        (1200, 1, 3600, "train"),
        (10, 100, 3600, "train"),
        (1200, 1, 5 * 3600, "wait"),  # 10 % of five hours is thirty minutes
        (1800, 1, 5 * 3600, "train"),
        (0, 0, 3600, "wait"),
    ],
)
def test_a_later_run_wants_minutes_or_percent_or_clips(
    new_s: float, new_clips: int, trained_s: float, kind: str
) -> None:
    state = replace(TRAINED, new_s=new_s, new_clips=new_clips, trained_s=trained_s)
    assert decide(state, ready_clips=500).kind == kind


def test_waiting_says_what_is_missing() -> None:
    first = decide(replace(FRESH, new_s=192))
    assert first.reason == "3.2 of 5.0 minutes of speech; waiting for more"
    later = decide(replace(TRAINED, new_s=192, new_clips=41))
    assert later.reason == "3.2 of 20.0 minutes of new speech, 41 of 100 clips; waiting for more"
    assert first.at is later.at is None


def test_training_says_why() -> None:
    assert decide(FRESH).reason == "6.7 of 5.0 minutes of speech; training tiny"
    assert decide(replace(FRESH, new_s=0, forced=True)).reason == "asked for; training tiny"


def test_training_waits_for_quiet() -> None:
    action = decide(FRESH, last_arrival=NOW - 20)
    assert (action.kind, action.at) == ("wait", NOW + 100)
    assert action.reason.endswith("training tiny in 100 s if nothing more arrives")
    assert decide(FRESH, last_arrival=NOW - 120).kind == "train"
    assert decide(FRESH, busy=True).kind == "wait"


def test_training_waits_for_what_is_out_of_reach() -> None:
    away = "3 recordings in /mnt/nas"
    action = decide(FRESH, out_of_reach=away)
    assert (action.kind, action.waits_for) == ("wait", "folder")
    assert action.reason.endswith("; waiting for 3 recordings in /mnt/nas, or now: `idiolect train --now`")
    assert decide(replace(FRESH, forced=True), out_of_reach=away).kind == "train"
    assert decide(replace(FRESH, new_s=1), out_of_reach=away).waits_for == ""


def test_a_clock_that_was_set_back_does_not_block_training() -> None:
    assert decide(FRESH, last_arrival=NOW + 9999).kind == "train"


def test_a_tier_without_weights_says_what_to_run_and_lets_others_go_first() -> None:
    missing = replace(FRESH, cached=False)
    assert "run `idiolect models fetch tiny`" in decide(missing).reason
    assert decide(missing, replace(FRESH, tier="small")).tier == "small"


def test_tiers_are_trained_in_the_order_of_the_configuration() -> None:
    assert decide(FRESH, replace(FRESH, tier="small")).tier == "tiny"
    assert decide(replace(TRAINED, new_s=0, new_clips=0), replace(FRESH, tier="small")).tier == "small"


def test_tiers_that_wait_for_different_things_are_told_apart() -> None:
    same = decide(replace(FRESH, new_s=60), replace(FRESH, tier="small", new_s=60))
    assert same.reason == "1.0 of 5.0 minutes of speech; waiting for more"
    apart = decide(replace(FRESH, new_s=60), replace(FRESH, tier="small", cached=False))
    assert apart.reason.startswith("tiny: 1.0 of 5.0 minutes")
    assert "; small: its stock weights are not on this machine" in apart.reason
    assert apart.at == NOW + 60


def test_an_interrupted_run_goes_on_at_once() -> None:
    small = TierState("small", cached=True, new_clips=0, new_s=0, trained_s=0, interrupted_run="run-0003")
    action = decide(FRESH, small, busy=True, last_arrival=NOW)
    assert (action.kind, action.tier, action.run_id) == ("train", "small", "run-0003")


def test_asked_for_means_now() -> None:
    little = replace(FAILED, new_s=10, forced=True)
    assert decide(little, busy=True, last_arrival=NOW).kind == "train"
    assert decide(replace(little, cached=False)).kind == "wait"
    assert decide(replace(little, new_clips=0), ready_clips=0).kind == "wait"


@pytest.mark.parametrize(("count", "pause_s"), [(1, 600), (2, 1200), (3, 2400)])
def test_the_same_recordings_are_tried_again_after_a_while(count: int, pause_s: float) -> None:
    state = replace(FAILED, failure=Failure(NOW, count, "out of memory", new_clips=0))
    early = decide(state, now=NOW + pause_s - 1)
    assert (early.kind, early.at) == ("wait", NOW + pause_s)
    assert "out of memory" in early.reason
    assert "--now" in early.reason
    assert decide(state, now=NOW + pause_s).kind == "train"


def test_they_are_not_tried_for_ever() -> None:
    state = replace(FAILED, failure=Failure(NOW, SAME_TRIES, "out of memory", new_clips=0))
    action = decide(state, now=NOW + 1e9)
    assert (action.kind, action.at) == ("wait", None)
    assert "waiting for new recordings" in action.reason


def test_what_was_asked_for_goes_before_an_interrupted_run() -> None:
    cut = replace(FRESH, interrupted_run="run-0003")
    asked = decide(cut, replace(FRESH, tier="small", forced=True))
    assert (asked.tier, asked.run_id, asked.asked) == ("small", None, True)
    both = decide(replace(FRESH, tier="small"), replace(cut, forced=True))
    assert (both.tier, both.run_id, both.asked) == ("tiny", "run-0003", True)
    assert not decide(cut).asked


@pytest.mark.parametrize(("count", "pause_s"), [(1, 0), (2, 600), (3, 1200), (6, 9600), (40, 86_400)])
def test_after_every_failure_it_waits_longer_for_the_next_try(count: int, pause_s: float) -> None:
    state = replace(FAILED, failure=Failure(NOW, count, "out of memory", new_clips=3))
    assert decide(state, now=NOW + pause_s).kind == "train"
    if pause_s:
        early = decide(state, now=NOW + pause_s - 1)
        assert (early.kind, early.at) == ("wait", NOW + pause_s)
