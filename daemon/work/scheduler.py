"""What happens next, and why: a pure function of the library, the clock and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from daemon.config import Training
from daemon.lines import span

RETRY_FIRST_S = 600.0
RETRY_MAX_S = 86_400.0
SAME_TRIES = 4
"""So many failures with the same recordings are tried again; then only new ones, or the user, begin another."""


@dataclass(frozen=True)
class Failure:
    """The failed runs of a tier since its last good one."""

    at: float  # of the newest, seconds since the epoch
    count: int
    reason: str
    new_clips: int  # ready clips that the newest of them did not have


@dataclass(frozen=True)
class TierState:
    """What the library knows of one tier. `trained_s` is 0 before its first finished run."""

    tier: str
    cached: bool  # its stock weights are on this machine
    new_clips: int
    new_s: float
    trained_s: float
    interrupted_run: str | None = None
    failure: Failure | None = None
    forced: bool = False  # the user asked for it now
    base: str = ""  # what its stock weights are called, where that is not the tier's name


@dataclass(frozen=True)
class Snapshot:
    """Everything the decision stands on. `tiers` in the order of the configuration."""

    tiers: Sequence[TierState]
    ready_clips: int
    busy: bool = False  # files are settling or being read
    last_arrival: float | None = None  # seconds since the epoch
    out_of_reach: str = ""  # known recordings whose disk or folder is away, in words


@dataclass(frozen=True)
class Action:
    """Train `tier` (going on with `run_id` where one is named), or wait: till `at`, or, without one, for an event."""

    kind: Literal["train", "wait", "nothing"]
    reason: str
    tier: str | None = None
    run_id: str | None = None
    at: float | None = None  # seconds since the epoch
    asked: bool = False  # by the user, so that no condition of the machine holds it back
    waits_for: str = ""  # the condition that does: "folder", or a name of daemon.work.conditions


def next_action(snapshot: Snapshot, settings: Training, now: float) -> Action:
    """What to do at `now` (seconds since the epoch).

    What the user asked for goes first, then an interrupted run, then the first tier with enough new speech, once
    nothing has arrived for `settings.quiet_s` and every recording is within reach. A failed tier waits, longer after
    every failure.
    """
    if not snapshot.tiers:
        return Action("nothing", "the configuration names no tiers to train ([training] tiers)")
    for state in sorted(snapshot.tiers, key=lambda state: not state.forced):
        if state.interrupted_run and state.cached:
            reason = f"{state.interrupted_run} was interrupted; it goes on where it was"
            return Action("train", reason, state.tier, state.interrupted_run, asked=state.forced)
        if state.forced and state.cached and snapshot.ready_clips:
            return Action("train", f"asked for; training {state.tier}", state.tier, asked=True)
    if not snapshot.ready_clips:
        missing = " ".join(dict.fromkeys(state.base or state.tier for state in snapshot.tiers if not state.cached))
        fetch = f"; stock weights are missing, run `idiolect models fetch {missing}`" if missing else ""
        return Action("wait", f"no recording with a transcript yet{fetch}")
    answers = [_for_tier(state, settings, now) for state in snapshot.tiers]
    due = next((answer for answer in answers if answer.kind == "train"), None)
    return _when_quiet(due, snapshot, settings, now) if due else _all_waiting(answers)


def _for_tier(state: TierState, settings: Training, now: float) -> Action:
    if not state.cached:
        return Action(
            "wait",
            f"its stock weights are not on this machine; run `idiolect models fetch {state.base or state.tier}`",
            state.tier,
            at=now + 60,  # nothing tells when they have come
        )
    have, enough = _measure(state, settings)
    if not enough:
        return Action("wait", f"{have}; waiting for more", state.tier)
    if state.failure:
        return _after_failure(state.tier, state.failure, have, now)
    return Action("train", have, state.tier)


def _measure(state: TierState, settings: Training) -> tuple[str, bool]:
    """How much new speech there is of what is needed, in words, and whether that is enough."""
    minutes = state.new_s / 60
    if not state.trained_s:
        need = settings.first_run_minutes
        return f"{minutes:.1f} of {need:.1f} minutes of speech", state.new_clips > 0 and minutes >= need
    need = max(settings.next_run_minutes, state.trained_s / 60 * settings.next_run_percent / 100)
    have = f"{minutes:.1f} of {need:.1f} minutes of new speech, {state.new_clips} of {settings.min_new_clips} clips"
    enough = minutes >= need or state.new_clips >= settings.min_new_clips
    return have, state.new_clips > 0 and enough


def _after_failure(tier: str, failure: Failure, have: str, now: float) -> Action:
    times = f"the last {failure.count} runs" if failure.count > 1 else "the last run"
    failed = f"{times} failed ({failure.reason})"
    if not failure.new_clips and failure.count >= SAME_TRIES:
        return Action("wait", f"{failed}; waiting for new recordings, or `idiolect train --now`", tier)
    # New recordings may be the cure: after one failure they are tried at once.
    doublings = failure.count - (2 if failure.new_clips else 1)
    at = failure.at + (min(RETRY_MAX_S, RETRY_FIRST_S * 2**doublings) if doublings >= 0 else 0.0)
    if now < at:
        return Action(
            "wait", f"{failed}; trying again in {span(at - now)}, or now: `idiolect train --now`", tier, at=at
        )
    return Action("train", have, tier)


def _when_quiet(due: Action, snapshot: Snapshot, settings: Training, now: float) -> Action:
    if snapshot.busy:
        return Action("wait", f"{due.reason}; recordings are still arriving", due.tier)
    if snapshot.out_of_reach:  # a model that learned from the rest alone might take the better one's place
        reason = f"{due.reason}; waiting for {snapshot.out_of_reach}, or now: `idiolect train --now`"
        return Action("wait", reason, due.tier, waits_for="folder")
    # An arrival in the future is a clock that was set back: it must not block training for a day.
    if snapshot.last_arrival is None or not 0 <= now - snapshot.last_arrival < settings.quiet_s:
        return replace(due, reason=f"{due.reason}; training {due.tier}")
    at = snapshot.last_arrival + settings.quiet_s
    return Action(
        "wait", f"{due.reason}; training {due.tier} in {span(at - now)} if nothing more arrives", due.tier, at=at
    )


def _all_waiting(answers: Sequence[Action]) -> Action:
    reasons = {answer.reason for answer in answers}
    if len(reasons) == 1:
        reason = answers[0].reason
    else:
        reason = "; ".join(f"{answer.tier}: {answer.reason}" for answer in answers)
    return Action("wait", reason, answers[0].tier, at=min((a.at for a in answers if a.at is not None), default=None))
