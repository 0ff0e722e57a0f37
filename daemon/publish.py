"""The end of a run: published where it is better, kept with the reasons where it is not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import Any

from daemon.rooms import Rooms
from daemon.sync.releases import Candidate, ReleaseStore
from daemon.work import gate
from daemon.work.spec import ArtifactResult, JobResult
from idiolect import wire
from idiolect.errors import JobError


async def finish(rooms: Rooms, run_id: str, result: JobResult) -> None:
    """Publish the run, or keep it with the reasons. Raises StoreError or OSError where the store cannot take it."""
    verdict = gate.decide(result, rooms.profiles, rooms.config.publish.anyway)
    release = None
    if verdict.publish:
        candidate = _candidate(rooms, result, verdict.artifacts)
        # A daemon that died between publishing and noting it must not publish the same files twice.
        channel = "beta" if rooms.config.publish.canary else "stable"
        release = _listed(rooms.store, candidate) or await asyncio.to_thread(rooms.store.publish, candidate, channel)
    rooms.library.update_run(
        run_id,
        state="published" if release else "kept",
        reason="; ".join(verdict.reasons),
        release_id=release.id if release else None,
        summary=_summary(result),
    )
    rooms.library.not_in_run(run_id, result.missing)
    for digest, told in result.remarks.items():
        rooms.library.remark(digest, told)


async def tidy(rooms: Rooms) -> None:
    """Remove the folders (checkpoints, exports) of runs that nothing needs; what is written of them stays.

    Needed are each tier's newest run, those behind current releases, and the unfinished.
    """
    manifest = rooms.store.manifest
    current = (
        {release_id for names in manifest.channels.values() for release_id in names.values()} if manifest else set()
    )
    seen: set[str] = set()
    for run in rooms.library.runs():
        needed = run.tier not in seen or run.release_id in current or run.state in {"running", "interrupted"}
        seen.add(run.tier)
        if not needed:
            for folder in rooms.run_dir(run.id).glob("*/"):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _candidate(rooms: Rooms, result: JobResult, artifacts: Sequence[ArtifactResult]) -> Candidate:
    difference = result.versus_stock
    return Candidate(
        tier=result.tier,
        languages=list(result.languages),
        base=wire.BaseModelInfo(name=result.base_name, license=result.base_license),
        train=wire.TrainInfo(
            recordings=result.train_clips,
            audio_s=result.train_audio_s,
            seed=result.seed,
            recipe_sha256=result.recipe_sha256,
        ),
        eval=wire.EvalInfo(
            set_sha256=result.held_out_sha256,
            utterances=result.held_out_clips,
            audio_s=result.held_out_audio_s,
            wer_stock=result.stock.wer,
            wer_tuned=result.tuned.wer,
            # The interval was drawn for the difference to stock, which is the figure that decides.
            wer_ci95=(max(0.0, result.stock.wer + difference.low), max(0.0, result.stock.wer + difference.high)),
        ),
        artifacts=[(_artifact(artifact), rooms.run_dir(result.run_id) / artifact.folder) for artifact in artifacts],
    )


def _artifact(made: ArtifactResult) -> wire.Artifact:
    if made.scores is None:
        raise JobError(f"the export for {made.profile} was not measured", "train again")
    return wire.Artifact(
        profile=made.profile,
        format=made.format,
        quantization=made.quantization,
        size_bytes=sum(file.size_bytes for file in made.files),
        checked=wire.Checked(
            runtime=made.runtime,
            wer=made.scores.wer,
            speed_x=made.speed_x,
            status="partly" if made.not_checked else "fully",
            not_checked=list(made.not_checked),
        ),
        hints={"audio_context": made.audio_context},
        files=[wire.ArtifactFile(**file.model_dump()) for file in made.files],
    )


def _listed(store: ReleaseStore, candidate: Candidate) -> wire.Release | None:
    """The release of exactly these files, if there is one."""
    wanted = {file.sha256 for artifact, _ in candidate.artifacts for file in artifact.files}
    for release in store.manifest.releases if store.manifest else ():
        if store.manifest and release.id in store.manifest.withdrawn:
            continue
        files = {file.sha256 for artifact in release.artifacts for file in artifact.files}
        if wanted and release.tier == candidate.tier and files == wanted:
            return release
    return None


def _summary(result: JobResult) -> dict[str, Any]:
    """What `idiolect runs` shows of it; rates as fractions."""
    return {
        "wer_stock": result.stock.wer,
        "wer_tuned": result.tuned.wer,
        "train_clips": result.train_clips,
        "train_audio_s": result.train_audio_s,
        "train_s": result.train_s,
        "held_out_clips": result.held_out_clips,
        "artifacts": [
            {
                "profile": made.profile,
                "wer": made.scores.wer if made.scores else None,
                "size_bytes": sum(file.size_bytes for file in made.files),
                "speed_x": made.speed_x,
                "error": made.error,
            }
            for made in result.artifacts
        ],
    }
