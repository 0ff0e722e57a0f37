"""A run's way through the library: decided on, begun, recovered after a crash."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from daemon.intake.library import Run, RunState
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work.scheduler import Failure, Snapshot, TierState
from daemon.work.spec import (
    CHECKPOINT,
    RUN_FILE,
    JobClip,
    JobResult,
    JobSpec,
    PublishedRun,
    load_result,
    load_spec,
    save_spec,
)
from idiolect.errors import JobError, UsageError
from training import lora
from training.vocabulary import read_vocabulary

MAX_CRASHES = 3
"""A run that the daemon died in so often may be what it dies of: it goes on no more."""


def look(rooms: Rooms, forced: frozenset[str] = frozenset(), *, busy: bool = False, out_of_reach: str = "") -> Snapshot:
    """What the scheduler decides on. A tier that was asked for is looked at even where the configuration omits it."""
    runs = rooms.library.runs()
    states = []
    for tier in dict.fromkeys([*rooms.config.training.tiers, *sorted(forced)]):
        new = rooms.library.new_since(tier)
        of_tier = [run for run in runs if run.tier == tier]
        states.append(
            TierState(
                tier=tier,
                cached=rooms.is_cached(tier),
                new_clips=new.clips,
                new_s=new.duration_s,
                trained_s=new.trained_s,
                interrupted_run=next((run.id for run in of_tier if run.state == "interrupted"), None),
                failure=_failure(rooms, of_tier),
                forced=tier in forced,
                base=rooms.config.base(tier),
            )
        )
    return Snapshot(states, rooms.library.counts().clips, busy, rooms.library.last_arrival(), out_of_reach)


def begin(rooms: Rooms, tier: str) -> str:
    """A new run of `tier` over all ready clips, in the library and as `run.json`; its id."""
    clips = rooms.library.ready_clips(rooms.config.training.language)
    base = rooms.config.base(tier)
    run_id = rooms.library.create_run(tier, base, clips)
    rooms.run_dir(run_id).mkdir(parents=True, exist_ok=True, mode=0o700)
    training = rooms.config.training
    save_spec(
        rooms.run_dir(run_id),
        JobSpec(
            run_id=run_id,
            tier=tier,
            base=base,
            language=training.language,
            clips=clips,
            profiles=tuple(
                profile.model_dump(mode="json") for profile in rooms.profiles.values() if profile.tier == tier
            ),
            training=training.model_dump(include={"epochs", "learning_rate", "batch_size", "seed"}, exclude_none=True)
            | ({"lora_rank": lora.RANK} if tier in training.lora else {}),
            published=_published(rooms, tier),
            vocabulary=user_terms(rooms.paths),
            cache=rooms.paths.cache,
            threads=training.threads,
        ),
    )
    return run_id


def recover(rooms: Rooms, *, crashed: bool = True) -> list[Path]:
    """What a dead daemon, or one that could not write it down, left running becomes "interrupted".

    The run folders its job may still hold.
    """
    unfinished = [run for run in rooms.library.runs() if run.state in ("running", "interrupted")]
    for run in unfinished:
        if not (rooms.run_dir(run.id) / RUN_FILE).exists():
            rooms.library.update_run(run.id, state="failed", reason="stopped before it began")
        elif run.state == "running" and not crashed:
            rooms.library.update_run(run.id, state="interrupted", reason="the disk could not be written")
        elif run.state == "running":
            crashes = run.crashes + 1
            state: RunState = "interrupted" if crashes < MAX_CRASHES else "failed"
            times = "" if crashes == 1 else f" {crashes} times"
            reason = f"the daemon ended{times} while it ran"
            rooms.library.update_run(run.id, state=state, reason=reason, crashes=crashes)
    return [rooms.run_dir(run.id) for run in unfinished]


def result_of(rooms: Rooms, run_id: str) -> JobResult | None:
    """What the run's job left, None before its end. Raises JobError for one that cannot be read."""
    try:
        return load_result(rooms.run_dir(run_id))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise JobError(f"result.json of {run_id} is damaged: {place}: {first['msg']}", "train again") from error


def user_terms(paths: Paths) -> tuple[str, ...]:
    """The terms of vocabulary.txt; none where it is missing or cannot be read, which `idiolect coverage` tells."""
    try:
        return tuple(term.text for term in read_vocabulary(paths.vocabulary_file).terms)
    except UsageError:
        return ()


def _failure(rooms: Rooms, runs: Sequence[Run]) -> Failure | None:
    """The failures since the last run that did not fail; `runs` of one tier, newest first."""
    count = next((i for i, run in enumerate(runs) if run.state != "failed"), len(runs))
    if not count:
        return None
    had: set[tuple[str, str]] = set()
    with contextlib.suppress(OSError, ValidationError):
        had = _knowledge(load_spec(rooms.run_dir(runs[0].id)).clips)
    new = _knowledge(rooms.library.ready_clips()) - had
    at = (runs[0].finished or runs[0].created).timestamp()
    return Failure(at, count, runs[0].reason or "no reason given", len(new))


def _knowledge(clips: Sequence[JobClip]) -> set[tuple[str, str]]:
    return {(clip.pcm_sha256, clip.text) for clip in clips}


def _published(rooms: Rooms, tier: str) -> PublishedRun | None:
    """The run behind the tier's current release, where its checkpoint is still there to compare with."""
    manifest = rooms.store.manifest
    release_id = manifest.channels.get(tier, {}).get("stable") if manifest else None
    run = next((run for run in rooms.library.runs() if release_id and run.release_id == release_id), None)
    if release_id is None or run is None or not (checkpoint := rooms.run_dir(run.id) / CHECKPOINT).is_dir():
        return None
    return PublishedRun(release_id=release_id, checkpoint=checkpoint, trained_on=rooms.library.trained_on(run.id))
