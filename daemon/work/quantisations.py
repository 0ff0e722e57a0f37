"""`idiolect export --compare`: every quantisation of a format, made, heard, and held against the checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.work.direct import evaluation_clips, open_model
from daemon.work.evaluation import facts_of, unlearnt
from device_profiles import FORMATS, Profile
from idiolect.child import Reporter
from idiolect.errors import DatasetError, IdiolectError, JobStopped, UsageError, require
from idiolect.transcriber import AudioContext, DecodingOptions, Transcriber
from training import base_models

if TYPE_CHECKING:
    from training.compare import Comparison, Result, Scored
    from training.evaluate import EvaluationClip

CHECKPOINT = "checkpoint"
NO_TERMS = "none"


@dataclass(frozen=True)
class Request:
    """What to make of `model`, and what to hear it on. `vocabulary` None: no words matter more than others."""

    model: str
    format: str
    data: Path
    options: DecodingOptions = DecodingOptions()
    vocabulary: Path | None = None


@dataclass(frozen=True)
class Fit:
    """What one profile thinks of one quantisation: the limits it misses; `is_choice`: the one the profile takes."""

    profile: str
    is_choice: bool
    missed: tuple[str, ...]
    is_refused: bool
    """True where a missed limit keeps it from the devices: speed alone does so only with enforce_speed."""


@dataclass(frozen=True)
class Quantisations:
    """The checkpoint first, then the quantisations in the format's order; `failed`: why the others were not heard."""

    format: str
    options: DecodingOptions
    comparison: Comparison
    failed: Mapping[str, str]
    profiles: Mapping[str, Profile]

    def fits(self, result: Result) -> Iterator[Fit]:
        """Every profile of the format beside one quantisation."""
        clean, facts = result.scored.clean, result.scored.facts
        loss = result.versus.mean if result.versus else 0.0
        for profile in self.profiles.values():
            missed = profile.missed((facts.size_bytes or 0) / 1e6, loss, 1 / clean.rtf if clean.rtf else 0.0)
            warns_only = set() if profile.enforce_speed else {"min_speed_x"}
            yield Fit(profile.name, result.label == profile.quantization, missed, bool(set(missed) - warns_only))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rows = self.comparison.to_json()
        for row, result in zip(rows["results"], self.comparison.results, strict=True):
            del row["worst"]
            row["profiles"] = [asdict(fit) for fit in self.fits(result)] if result.versus else []
        return {
            "format": self.format,
            "audio_context": self.options.audio_context,
            CHECKPOINT: rows["results"][0],
            "quantizations": rows["results"][1:],
            "failed": dict(self.failed),
            "vocabulary": rows["vocabulary"],
        }


def compare_quantisations(
    request: Request, profiles: Mapping[str, Profile], cache: Path, reporter: Reporter
) -> Quantisations:
    """Make one quantisation after the other in a temporary folder and score it on the same clips as the checkpoint.

    One at a time lies on the disk, and none is left. What a runtime refuses is told, and the others go on.
    Raises UsageError, DatasetError, CheckpointError, MissingExtra, JobStopped, and where not one could be heard, what
    kept the last from it.
    """
    from exporters.kinds import RUNTIMES
    from training.compare import compare
    from training.vocabulary import Vocabulary, read_vocabulary

    if request.format not in FORMATS:
        raise UsageError(f"there is no format {request.format!r}", f"choose one of {', '.join(FORMATS)}")
    require(*RUNTIMES[request.format])
    vocabulary = read_vocabulary(request.vocabulary) if request.vocabulary else Vocabulary((), NO_TERMS)
    checkpoint = base_models.resolve(request.model, cache)
    reporter.stage("read recordings")
    clips = unlearnt([request.model], evaluation_clips(request.data, reporter), reporter)
    if not any(clip.text.strip() for clip in clips):
        raise DatasetError(f"{request.data}: no clip with a word to score on", "it needs recordings with transcripts")
    reporter.stage(f"hear {CHECKPOINT}")
    opened = open_model(str(checkpoint), cache)
    scored = [_scored(opened, CHECKPOINT, checkpoint, clips, request.options, cache, reporter)]
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="idiolect-compare-") as folder:
        for quantization in FORMATS[request.format]:
            try:
                scored.append(_made_and_heard(request, checkpoint, quantization, Path(folder), clips, cache, reporter))
            except JobStopped:
                raise
            except IdiolectError as error:
                failed[quantization] = error.message.replace(f"{folder}/", "")
                reporter.warning(f"{quantization}: {failed[quantization]}")
                last = error
    if len(scored) == 1:
        raise last
    names = [clip.name.encode(errors="replace").decode() for clip in clips]
    found = compare(scored, len(scored), 0, names, vocabulary)
    wanted = {name: profile for name, profile in profiles.items() if profile.format == request.format}
    return Quantisations(request.format, request.options, found, failed, wanted)


def usual_context(format: str, profiles: Mapping[str, Profile]) -> AudioContext:
    """The audio context to compare in: "dynamic" where a profile of the format asks for it, else "full"."""
    asked = {profile.audio_context for profile in profiles.values() if profile.format == format}
    return "dynamic" if "dynamic" in asked else "full"


def _made_and_heard(
    request: Request,
    checkpoint: Path,
    quantization: str,
    folder: Path,
    clips: Sequence[EvaluationClip],
    cache: Path,
    reporter: Reporter,
) -> Scored:
    import shutil

    from exporters import export_to
    from exporters.apart import open_apart

    out = folder / quantization
    try:
        reporter.stage(f"write {quantization}")
        export_to(checkpoint, request.format, quantization, out, reporter)
        reporter.stage(f"hear {quantization}")
        return _scored(open_apart(out), quantization, out, clips, request.options, cache, reporter)
    finally:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def _scored(
    transcriber: Transcriber,
    name: str,
    path: Path,
    clips: Sequence[EvaluationClip],
    options: DecodingOptions,
    cache: Path,
    reporter: Reporter,
) -> Scored:
    from training.compare import Scored
    from training.evaluate import evaluate

    transcriber.name = name
    try:
        return Scored(evaluate(transcriber, clips, options, reporter), facts_of(str(path), cache))
    finally:
        transcriber.close()
