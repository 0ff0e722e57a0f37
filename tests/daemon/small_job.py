"""A job as small as one can be, run as `small_job.py MODE RUN_DIR`: the pipeline's place in tests of its parent.

It holds the run folder, speaks the protocol and leaves a result. MODE: "good" (better than stock), "worse", "fail",
"empty" (no result), "deaf" (hears of no stop), "slow" (works until asked to stop; done at once when it is started
again), "stuck" (works on for a while after its parent died, as one that saves does), "phased" (good, and in each
stage for a moment).
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import filelock

from daemon.work.spec import (
    RESULT_FILE,
    ArtifactResult,
    Difference,
    ExportedFileRecord,
    JobResult,
    JobSpec,
    Scores,
    load_spec,
)
from device_profiles import Profile
from idiolect.child import PipeReporter, run_child
from idiolect.errors import ExportError
from idiolect.files import write_text

STOCK_WER, TUNED_WER = 0.5, 0.1
PHASE_S = 0.3


def result(run_dir: Path, spec: JobSpec, tuned_wer: float = TUNED_WER) -> JobResult:
    """A result over the spec's clips, with a file of a few bytes for each profile."""
    change = tuned_wer - STOCK_WER
    held_out = [clip for clip in spec.clips if clip.side == "held-out"]
    return JobResult(
        run_id=spec.run_id,
        tier=spec.tier,
        base_name=spec.base,
        languages=(spec.language,),
        train_clips=len(spec.clips) - len(held_out),
        train_audio_s=sum(clip.duration_s for clip in spec.clips),
        steps=1,
        train_s=0.1,
        seed=0,
        recipe_sha256="0" * 64,
        missing=tuple(clip.pcm_sha256 for clip in spec.clips if not clip.path.exists()),
        held_out_clips=20,
        held_out_words=200,
        held_out_audio_s=60,
        held_out_sha256="1" * 64,
        stock=_scores(STOCK_WER),
        tuned=_scores(tuned_wer),
        versus_stock=Difference(mean=change, low=change - 0.05, high=change + 0.05, clips=20, words=200),
        artifacts=tuple(_artifact(run_dir, Profile.model_validate(values), tuned_wer) for values in spec.profiles),
    )


def _scores(wer: float) -> Scores:
    return Scores(clips=20, words=200, wer=wer, cer=wer / 2, loops=0, rtf=0.1)


def _artifact(run_dir: Path, profile: Profile, wer: float) -> ArtifactResult:
    name, content = profile.artifact_name(), b"lmgg" + run_dir.name.encode() + profile.name.encode()
    folder = run_dir / "exports" / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return ArtifactResult(
        profile=profile.name,
        format=profile.format,
        quantization=profile.quantization,
        folder=f"exports/{profile.name}",
        files=(ExportedFileRecord(path=name, size_bytes=len(content), sha256=digest, magic=content[:4].hex()),),
        runtime="test 1.0",
        scores=_scores(wer),
        checkpoint_wer=wer,
        speed_x=50,
    )


def main() -> int:
    """Run as a child."""
    mode, run_dir = sys.argv[1], Path(sys.argv[2])

    def work(reporter: PipeReporter) -> dict[str, object]:
        with filelock.FileLock(run_dir / "lock", timeout=0):
            _note(run_dir, "start")
            try:
                _work(reporter, mode, run_dir)
            finally:
                _note(run_dir, "end")
        return {}

    return run_child(work)


def _work(reporter: PipeReporter, mode: str, run_dir: Path) -> None:
    reporter.stage("train")
    reporter.progress(1, 4, "steps")
    if mode == "fail":
        raise ExportError("the disk is full", "make room")
    if mode == "deaf":
        time.sleep(60)
    begun = run_dir / "begun"
    if mode in {"slow", "stuck"} and not begun.exists():
        begun.touch()
        reporter.stop.wait(60)
        if mode == "stuck":
            time.sleep(1.5)
        reporter.check_stop()
    if mode == "phased":
        time.sleep(PHASE_S)
        reporter.stage("export")
        time.sleep(PHASE_S)
    if mode != "empty":
        made = result(run_dir, load_spec(run_dir), 0.6 if mode == "worse" else TUNED_WER)
        write_text(run_dir / RESULT_FILE, made.model_dump_json())
    if mode == "phased":
        time.sleep(PHASE_S)


def _note(run_dir: Path, what: str) -> None:
    with (run_dir.parent / "jobs.txt").open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


if __name__ == "__main__":
    sys.exit(main())
