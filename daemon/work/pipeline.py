"""The job: train → evaluate → export → check, for one tier. `python -m daemon.work.pipeline RUN_DIR`.

Writes only its run folder. Training leaves its state and its result there, so that a continued job goes on from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.work.direct import MELS
from daemon.work.spec import (
    CHECKPOINT,
    LOCK_FILE,
    RESULT_FILE,
    ArtifactResult,
    Difference,
    ExportedFileRecord,
    JobClip,
    JobResult,
    JobSpec,
    PublishedRun,
    Scores,
    TermRecall,
    load_result,
    load_spec,
)
from idiolect.child import Reporter, run_child
from idiolect.errors import AudioError, DatasetError, JobError, one_line
from idiolect.files import write_json, write_text

if TYPE_CHECKING:
    from training.evaluate import Evaluation, EvaluationClip

TRAINED_FILE = "trained.json"
ARTIFACTS = "artifacts"
SCORED = "scored"
# An export is compared with its checkpoint on the same clips, which needs fewer than judging a model; the full window
# is ten times the work.
CHECKED_CLIPS = {"dynamic": 24, "full": 12}
MOST_CHECKED_CLIPS = 100


def run(run_dir: Path, reporter: Reporter) -> JobResult:
    """Do, or continue, the job of `run_dir` and write its result. Raises JobStopped and every training error."""
    import filelock

    try:
        with filelock.FileLock(run_dir / LOCK_FILE, timeout=0):
            return load_result(run_dir) or _Pipeline(run_dir, reporter).run()
    except filelock.Timeout:
        raise JobError(f"another process works on {run_dir.name}", "wait for it to end") from None


def main() -> int:
    """Entry point of the child process."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a job never downloads
    run_dir = Path(sys.argv[1])

    def work(reporter: Reporter) -> dict[str, Any]:
        result = run(run_dir, reporter)
        return {"run_id": result.run_id, "wer_stock": result.stock.wer, "wer_tuned": result.tuned.wer}

    return run_child(work)


class _Pipeline:
    def __init__(self, run_dir: Path, reporter: Reporter) -> None:
        from training import base_models

        self.run_dir, self.reporter = run_dir, reporter
        self.spec: JobSpec = load_spec(run_dir)
        self.base = base_models.resolve(self.spec.base, self.spec.cache)
        self.checkpoint = run_dir / CHECKPOINT
        self._unreadable: list[str] = []
        self._missing: list[str] = []

    def run(self) -> JobResult:
        from training.evaluate import EvaluationClip
        from training.scoring import missed_terms

        self.reporter.stage("read held-out recordings")
        judged, pcms = self._load([clip for clip in self.spec.clips if clip.side == "held-out"])
        clips = [
            EvaluationClip(clip.path.name, pcm, clip.text, clip.language)
            for clip, pcm in zip(judged, pcms, strict=True)
        ]
        self.reporter.stage("score the stock model")
        stock = self._evaluate("stock", self.base, clips)
        published = self.spec.published if self.spec.published and self.spec.published.checkpoint.is_dir() else None
        before = self._evaluate("published", published.checkpoint, clips) if published else None
        trained = self._train()
        self.reporter.stage("score the new model")
        tuned = self._evaluate("tuned", self.checkpoint, clips)
        fields = {
            "run_id": self.spec.run_id,
            "tier": self.spec.tier,
            **_base_info(self.spec.base),
            "languages": tuple(sorted({clip.language for clip in self.spec.clips})),
            **trained,
            "held_out_clips": len(clips),
            "held_out_words": stock.words,
            "held_out_audio_s": stock.audio_s,
            "held_out_sha256": _digest(sorted((clip.pcm_sha256, clip.text) for clip in judged)),
            "stock": _scores(stock),
            "tuned": _scores(tuned),
            "versus_stock": _difference(tuned, stock),
            **(_versus_published(tuned, before, judged, published) if before and published else {}),
            "terms": _recalls(missed_terms(stock.references, stock.hypotheses), stock, tuned),
            "vocabulary": _recalls(self.spec.vocabulary, stock, tuned),
            "artifacts": (),
        }
        result = JobResult.model_validate(fields)
        _write_card(self.checkpoint, result)  # some artifacts hold it
        result = result.model_copy(
            update={"artifacts": tuple(self._artifact(profile, clips) for profile in self.spec.profiles)}
        )
        write_text(self.run_dir / RESULT_FILE, result.model_dump_json(indent=1) + "\n", mode=0o600)
        return result

    def _train(self) -> dict[str, Any]:
        """The fields of JobResult that training gives, from disk where it is done."""
        from daemon.work.language import listen
        from training.finetune import Settings, Source, finetune

        done = self.run_dir / TRAINED_FILE
        if self.checkpoint.is_dir() and done.exists():
            return dict(json.loads(done.read_text()))
        self.reporter.stage("read recordings")
        taught, pcms = self._load([clip for clip in self.spec.clips if clip.side != "held-out"])
        sources = [
            Source(clip.path.name, pcm, clip.text, clip.language, clip.side == "select")
            for clip, pcm in zip(taught, pcms, strict=True)
        ]
        remarks = listen(self.base, taught, pcms, self.spec.cache, self.reporter, self.spec.threads)
        self.reporter.stage("train")
        settings = Settings.of({"threads": self.spec.threads, **self.spec.training})
        outcome = finetune(self.base, sources, self.checkpoint, settings, self.reporter, self.spec.cache / MELS)
        trained = {
            "train_clips": outcome.clips,
            "train_audio_s": outcome.audio_s,
            "skipped": [*self._unreadable, *outcome.skipped],
            "missing": self._missing,
            "steps": outcome.steps,
            "train_s": outcome.train_s,
            "remarks": remarks,
            "seed": outcome.settings.seed,
            "recipe_sha256": outcome.settings.digest(),
        }
        write_json(done, trained, mode=0o600)
        return trained

    def _load(self, clips: Sequence[JobClip]) -> tuple[list[JobClip], list[Any]]:
        """Clips that can still be read, with their PCM; the others are noted: a file may go while a job runs."""
        from training.audio import decode, pcm_sha256

        kept, pcms = [], []
        for done, clip in enumerate(clips):
            self.reporter.check_stop()
            try:
                pcm = decode(clip.path, clip.start_s, clip.end_s)
                if pcm_sha256(pcm) != clip.pcm_sha256:
                    raise DatasetError("the audio changed since the run began")
            except (AudioError, DatasetError, OSError) as error:
                if not clip.path.exists():
                    self._missing.append(clip.pcm_sha256)
                self._unreadable.append(f"{clip.path.name}: {one_line(error).removeprefix(f'{clip.path}: ')}")
                self.reporter.warning(f"left out {self._unreadable[-1]}")
            else:
                kept.append(clip)
                pcms.append(pcm)
            self.reporter.progress(done + 1, len(clips), "clips")
        return kept, pcms

    def _evaluate(
        self, name: str, folder: Path, clips: Sequence[EvaluationClip], context: str = "dynamic"
    ) -> Evaluation:
        """A checkpoint on these held-out clips; what was scored before the job was stopped is not scored again."""
        from training.decode import CheckpointTranscriber
        from training.evaluate import Evaluation, evaluate

        heard = _digest([context, [(clip.name, clip.text) for clip in clips]])[:16]
        path = self.run_dir / SCORED / f"{name}-{heard}.json"
        if path.exists():
            return Evaluation.of(json.loads(path.read_text()))
        transcriber = CheckpointTranscriber(folder, name, self.spec.threads)
        evaluation = evaluate(transcriber, clips, self._options(context), self.reporter)
        transcriber.close()
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(evaluation), mode=0o600)
        return evaluation

    def _artifact(self, profile: Mapping[str, Any], clips: Sequence[EvaluationClip]) -> ArtifactResult:
        """One profile's file, made and heard in its own runtime; an error is a result, the other profiles go on."""
        from device_profiles import Profile
        from idiolect.errors import IdiolectError, JobStopped

        wanted = Profile.model_validate(profile)
        about: dict[str, Any] = {"profile": wanted.name, "format": wanted.format, "quantization": wanted.quantization}
        about["audio_context"] = wanted.audio_context
        try:
            return self._made_and_checked(wanted, clips, about)
        except JobStopped:
            raise
        except IdiolectError as error:
            self.reporter.warning(f"{wanted.name}: {error.message}")
            return ArtifactResult(**about, error=error.message, hint=error.hint)
        except OSError as error:
            reason = f"could not be written: {error.strerror or error}"
            self.reporter.warning(f"{wanted.name}: {reason}")
            return ArtifactResult(**about, error=reason, hint="free some disk space and train again")

    def _made_and_checked(
        self,
        profile: Any,  # noqa: ANN401
        clips: Sequence[EvaluationClip],
        about: dict[str, Any],
    ) -> ArtifactResult:
        import exporters

        self.reporter.stage(f"export {profile.name}")
        out = self.run_dir / ARTIFACTS / profile.name
        made = exporters.export(self.checkpoint, profile, out, self.reporter, partial(self._heard, profile, clips))
        numbers = made.checked.numbers
        return ArtifactResult(
            **about,
            folder=made.folder.relative_to(self.run_dir).as_posix(),
            files=tuple(ExportedFileRecord(**vars(file)) for file in made.files),
            runtime=made.checked.runtime,
            scores=Scores.model_validate({name: numbers.get(name) for name in Scores.model_fields}),
            checkpoint_wer=numbers["checkpoint_wer"],
            speed_x=numbers["speed_x"],
            not_checked=made.checked.not_checked,
        )

    def _heard(self, profile: Any, clips: Sequence[EvaluationClip], artifact: Path) -> Any:  # noqa: ANN401
        """The exporters' Checked of an artifact that heard held-out clips in its own runtime."""
        from exporters import Checked, unchecked_by
        from exporters.runtimes import open_artifact
        from training.evaluate import evaluate

        self.reporter.stage(f"check {profile.name}")
        check_tier(artifact, self.checkpoint)
        transcriber = open_artifact(artifact, self.spec.threads)
        try:
            for chosen in checked_indices(len(clips), profile.audio_context):
                before = self._checkpoint_errors(clips, chosen, profile.audio_context)
                options = self._options(profile.audio_context)
                heard = evaluate(transcriber, [clips[index] for index in chosen], options, self.reporter)
                if is_settled(heard.errors, before, heard.clip_words, profile.max_wer_loss):
                    break
        finally:
            transcriber.close()
        scores = {name: value for name, value in _scores(heard) if value is not None}
        checkpoint_wer = sum(before) / max(1, heard.words)
        numbers = {**scores, "checkpoint_wer": checkpoint_wer, "speed_x": 1 / heard.rtf if heard.rtf else 0.0}
        return Checked(heard.runtime, numbers, unchecked_by(transcriber))

    def _checkpoint_errors(self, clips: Sequence[EvaluationClip], chosen: Sequence[int], context: str) -> list[int]:
        """The unquantised model's errors in each `chosen` held-out clip; at dynamic context they are known already."""
        if context != "dynamic":
            return list(self._evaluate("tuned", self.checkpoint, [clips[index] for index in chosen], context).errors)
        known = self._evaluate("tuned", self.checkpoint, clips)
        return [known.errors[index] for index in chosen]

    def _options(self, context: str) -> Any:  # noqa: ANN401
        from idiolect.transcriber import DecodingOptions

        return DecodingOptions(self.spec.language, "full" if context == "full" else "dynamic")


def checked_indices(n_clips: int, audio_context: str) -> list[list[int]]:
    """Which held-out clips an artifact is scored on, evenly from all: first a few, and more where those few do not
    settle it."""
    counts = sorted({min(n_clips, most) for most in (CHECKED_CLIPS[audio_context], MOST_CHECKED_CLIPS)})
    return [[index * n_clips // count for index in range(count)] for count in counts]


def is_settled(errors: Sequence[int], before: Sequence[int], words: Sequence[int], max_wer_loss: float) -> bool:
    """Whether these clips show that an artifact loses no more than that over its checkpoint (`before`): the 95 %
    interval of the loss has to end there.

    The mean of a few is chance either way: with half of what it loses as its limit nano's q4_0 kept it on 12 clips, or
    on 100 after them, three times in four; on 100 clips two times in five.
    """
    from training.scoring import paired_bootstrap

    return paired_bootstrap(errors, before, words)[2] <= max_wer_loss


def check_tier(artifact: Path, checkpoint: Path) -> None:
    """Raise ArtifactError for an export whose dimensions are not those of the checkpoint it was made from."""
    from exporters.checkpoint import read_dims
    from exporters.kinds import dims_of
    from idiolect.errors import ArtifactError

    found, expected = dims_of(artifact), read_dims(checkpoint)
    if found != expected:
        raise ArtifactError(
            f"{artifact.name} is of another tier: width {found.n_audio_state} and {found.n_audio_layer} layers, "
            f"expected {expected.n_audio_state} and {expected.n_audio_layer}",
            "train again",
        )


def _write_card(checkpoint: Path, result: JobResult) -> None:
    from training.model_card import Card, write_card

    card = Card(
        base=result.base_name,
        license=result.base_license,
        languages=result.languages,
        clips=result.train_clips,
        audio_s=result.train_audio_s,
        steps=result.steps,
        wer_stock=result.stock.wer,
        wer_tuned=result.tuned.wer,
        held_out_clips=result.held_out_clips,
    )
    write_card(checkpoint, card)


def _base_info(reference: str) -> dict[str, str]:
    from training import base_models

    name = base_models.hub_id(reference) or Path(reference).name
    return {"base_name": name, "base_license": base_models.license_of(reference)}


def _scores(evaluation: Evaluation) -> Scores:
    picked: Callable[[str], Any] = evaluation.__getattribute__
    return Scores(**{name: picked(name) for name in Scores.model_fields})


def _difference(one: Evaluation, other: Evaluation, kept: Sequence[int] | None = None) -> Difference:
    from training.evaluate import wer_difference

    indices = range(one.clips) if kept is None else kept
    mean, low, high = wer_difference(one, other, indices) if indices else (0.0, 0.0, 0.0)
    return Difference(
        mean=mean,
        low=low,
        high=high,
        clips=len(indices),
        words=sum(one.clip_words[i] for i in indices),
        left_out=one.clips - len(indices),
    )


def _versus_published(
    tuned: Evaluation, before: Evaluation, judged: Sequence[JobClip], published: PublishedRun
) -> dict[str, Any]:
    """The comparison with the tier's current release, on clips it was not trained on."""
    kept = [i for i, clip in enumerate(judged) if clip.pcm_sha256 not in published.trained_on]
    return {"versus_published": _difference(tuned, before, kept), "published_release": published.release_id}


def _recalls(terms: Sequence[str], stock: Evaluation, tuned: Evaluation) -> tuple[TermRecall, ...]:
    """How the stock and the tuned model do on those of `terms` that were said."""
    from training.scoring import term_recall

    recalls = []
    for term in terms:
        before, said = term_recall(term, stock.references, stock.hypotheses)
        after, _ = term_recall(term, tuned.references, tuned.hypotheses)
        if said:
            recalls.append(TermRecall(term=term, occurrences=said, stock=before, tuned=after))
    return tuple(recalls)


def _digest(value: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
