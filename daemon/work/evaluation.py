"""`idiolect evaluate`: several models and files on the same clips, and what is needed to judge them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from daemon.work.direct import evaluation_clips, open_model, warn_of_few
from idiolect.child import Reporter
from idiolect.errors import CheckpointError, DatasetError, IdiolectError, JobError, JobStopped, UsageError
from idiolect.files import folder_bytes, write_text
from idiolect.transcriber import DecodingOptions
from training import base_models
from training.promise import Facts, promised, tier_of

if TYPE_CHECKING:
    from idiolect.wire import Release
    from training.compare import Comparison, Scored
    from training.evaluate import EvaluationClip
    from training.svg import Line

MAX_SNR_DB = 100.0


@dataclass(frozen=True)
class Request:
    """What to score: `against` None holds all against the first model; `rivals` adds the stock models of the promise.

    `noise_db` is the signal-to-noise ratio of a second round with noise added.
    """

    models: tuple[str, ...]
    data: Path
    options: DecodingOptions = DecodingOptions()
    against: str | None = None
    vocabulary: Path | None = None
    noise_db: float | None = None
    rivals: bool = True


def evaluate(request: Request, cache: Path, reporter: Reporter) -> Comparison:
    """Score every model of `request` on the same clips: those of `data`/validation where it exists, else all, without
    those that one of them was trained on.

    What the user wrote is checked before the first model is loaded. Raises DatasetError, UsageError, CheckpointError,
    ArtifactError, RuntimeFailed, JobError, JobStopped.
    """
    from training.compare import compare
    from training.memory import shortages_told
    from training.scoring import basic_normalize
    from training.vocabulary import read_vocabulary

    if request.noise_db is not None and not -MAX_SNR_DB <= request.noise_db <= MAX_SNR_DB:
        raise UsageError(
            f"--noise-db {request.noise_db:g}", "from 30 (hardly heard) over 10 (a busy room) down to -100"
        )
    reference = request.against or request.models[0]
    asked = [*request.models, *([] if reference in request.models else [reference])]
    facts = [facts_of(model, cache) for model in asked]
    beside = request.data / "vocabulary.txt"
    words = request.vocabulary or (beside if os.path.isfile(beside) else None)  # noqa: PTH113  Path's raises where closed
    vocabulary = read_vocabulary(words) if words else None
    reporter.stage("read")
    clips = unlearnt(asked, evaluation_clips(request.data, reporter), reporter)
    if not any(basic_normalize(clip.text) for clip in clips):
        raise DatasetError(f"{request.data}: no clip with a word to score on", "it needs recordings with transcripts")
    warn_of_few(clips, request.data, "record more", reporter)
    scored = [_score(model, fact, clips, request, cache, reporter) for model, fact in zip(asked, facts, strict=True)]
    for rival in rivals(facts, cache) if request.rivals else ():
        try:
            with shortages_told():
                scored.append(_score(rival, facts_of(rival, cache), clips, request, cache, reporter))
        except JobStopped:
            raise
        except (CheckpointError, UsageError, JobError) as error:
            reporter.warning(f"left out {rival}: {error.message}")
    return compare(
        scored,
        len(asked),
        asked.index(reference),
        [clip.name.encode(errors="replace").decode() for clip in clips],  # a file name may be no UTF-8
        vocabulary,
        request.noise_db,
    )


def facts_of(model: str, cache: Path) -> Facts:
    """What a tier, folder, id or export is. Raises UsageError, CheckpointError where there is no such model."""
    from exporters.checkpoint import read_dims
    from exporters.kinds import dims_of, find_kind
    from exporters.layout import tensors

    path = Path(model).expanduser()
    exported = path.exists() and find_kind(path) is not None
    if not exported and path.suffix in {".bin", ".gguf", ".onnx"}:
        raise UsageError(f"{model}: there is no such file", "name an exported file, a model folder, a tier or an id")
    folder = path if exported else base_models.resolve(model, cache)
    size_bytes = (
        folder_bytes(path) if exported else sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    )
    try:
        dims = dims_of(path) if exported else read_dims(folder)
    except IdiolectError:  # whether it can be used is for its runtime to say
        return Facts(size_bytes=size_bytes)
    tier = tier_of(dims.n_text_state, dims.n_text_layer, dims.n_vocab)
    stock = model == tier or model in {known.repo for known in base_models.TIERS.values() if known.repo}
    return Facts(tier, stock, sum(tensor.elements for tensor in tensors(dims)), size_bytes)


def rivals(models: Sequence[Facts], cache: Path) -> list[str]:
    """The stock models on this machine that one of `models` should match, and that are not among them."""
    here = [tier for tier in base_models.TIERS if base_models.is_cached(tier, cache)]
    present = {model.tier for model in models if model.stock}
    return list(dict.fromkeys(tier for _, tier in promised(models, here) if tier not in present))


def missing_rivals(comparison: Comparison) -> list[str]:
    """Stock models that would show the promise, where none of them was at hand."""
    if comparison.promises:
        return []
    facts = [result.scored.facts for result in comparison.results]
    return list(dict.fromkeys(tier for _, tier in promised(facts, base_models.TIERS)))


def check_writable(path: Path) -> None:
    """Raise UsageError unless a file can be written at `path`, before hours are spent on what it shall hold."""
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = (
            "is a folder" if path.is_dir() else f"{folder} {'cannot be written' if folder.is_dir() else 'is missing'}"
        )
        raise UsageError(f"cannot write {path}: {reason}", "name a file in a folder that exists and is yours")


def write_report(path: Path, comparison: Comparison, store: Path) -> None:
    """The whole comparison, and the releases of the store, as one HTML file. Raises UsageError, StoreError."""
    from daemon.sync.releases import ReleaseStore
    from training.report_html import report

    manifest = ReleaseStore(store).manifest
    releases = manifest.releases if manifest else []
    write_page(path, report(comparison, curve_lines(releases), release_lines(releases)))


def write_page(path: Path, html: str) -> None:
    """An HTML file, whole or not at all. Raises UsageError."""
    try:
        write_text(path, html)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "name a file in a folder of yours") from error


def release_lines(releases: Sequence[Release]) -> list[Line]:
    """WER of the tuned and of the stock model over the releases, two lines for each tier."""
    from training.svg import Line, Point

    rows = []
    for tier in dict.fromkeys(release.tier for release in releases):
        own = sorted((release for release in releases if release.tier == tier), key=lambda release: release.number)
        rows.append(Line(f"{tier}, tuned", tuple(Point(release.id, release.eval.wer_tuned) for release in own)))
        rows.append(Line(f"{tier}, stock", tuple(Point(release.id, release.eval.wer_stock) for release in own)))
    return rows


def curve_lines(releases: Sequence[Release]) -> list[Line]:
    """WER by recordings learnt from, a line for each tier, from the stock model's on; the last release of a number."""
    from training.svg import Line, Point

    rows = []
    for tier in dict.fromkeys(release.tier for release in releases):
        own = sorted((release for release in releases if release.tier == tier), key=lambda release: release.number)
        learnt = {release.train.recordings: release.eval.wer_tuned for release in own}
        points = [Point("0", own[-1].eval.wer_stock), *(Point(str(count), learnt[count]) for count in sorted(learnt))]
        rows.append(Line(tier, tuple(points)))
    return rows


def unlearnt(models: Sequence[str], clips: Sequence[EvaluationClip], reporter: Reporter) -> list[EvaluationClip]:
    """The clips that none of `models` was trained on, as far as their folders tell; what is left out is told."""
    from training.audio import pcm_sha256
    from training.trained_on import read_trained_on

    kept = {index: pcm_sha256(clip.pcm) for index, clip in enumerate(clips)}
    for model in models:
        path = Path(model).expanduser()
        learnt = read_trained_on(path) if path.is_dir() else frozenset()
        rest = {index: digest for index, digest in kept.items() if digest not in learnt}
        if kept and not rest:
            raise DatasetError(f"{model} was trained on all of these clips", "score it on recordings it never heard")
        if len(rest) < len(kept):
            reporter.warning(f"left out {len(kept) - len(rest)} of {len(kept)} clips: {model} was trained on them")
        kept = rest
    return [clips[index] for index in kept]


def _score(
    model: str, facts: Facts, clips: Sequence[EvaluationClip], request: Request, cache: Path, reporter: Reporter
) -> Scored:
    from training.compare import Scored
    from training.evaluate import evaluate as score
    from training.noise import add_noise

    reporter.stage(f"score {model}")
    transcriber = open_model(model, cache)
    transcriber.name = model
    try:
        clean = score(transcriber, clips, request.options, reporter)
        if request.noise_db is None:
            return Scored(clean, facts)
        reporter.stage(f"in noise {model}")
        noisy = [
            replace(clip, pcm=add_noise(clip.pcm, request.noise_db, crc32(clip.name.encode(errors="replace"))))
            for clip in clips
        ]
        return Scored(clean, facts, score(transcriber, noisy, request.options, reporter))
    finally:
        transcriber.close()
