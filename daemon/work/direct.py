"""Training, scoring, exporting and transcribing by hand, on a folder, without the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from daemon.work.finished import finished, forget, is_noted, note, recipe
from idiolect.child import Reporter, collect_rarely
from idiolect.errors import AudioError, DatasetError, UsageError, one_line
from idiolect.transcriber import DecodingOptions, Transcriber, Transcription
from training import base_models

if TYPE_CHECKING:
    from training.clips import Clip
    from training.evaluate import Evaluation, EvaluationClip
    from training.finetune import Outcome, Settings, Source

MELS = "mels"  # in the cache: log-mel features
VALIDATION = "validation"


@dataclass(frozen=True)
class Trained:
    """A finished training by hand: what came of it, and the scores of stock and tuned model on held-out clips.

    `left_out` lists the recordings that could not be used, each "file: reason".
    """

    model: str
    outcome: Outcome
    evaluations: tuple[Evaluation, ...]
    left_out: tuple[str, ...]


def open_model(reference: str, cache: Path, threads: int = 0) -> Transcriber:
    """A tier, model folder, Hugging Face id or export as a Transcriber. Raises UsageError for anything else."""
    from exporters.kinds import find_kind

    path = Path(reference).expanduser()
    if path.exists() and find_kind(path):
        from exporters.runtimes import open_artifact

        return open_artifact(path, threads)
    from training.decode import CheckpointTranscriber

    collect_rarely()
    return CheckpointTranscriber(base_models.resolve(reference, cache), reference, threads)


def train(
    models: Sequence[str],
    train_data: Path,
    validation_data: Path | None,
    out: Path,
    settings: Settings,
    language: str,
    cache: Path,
    reporter: Reporter,
) -> list[Trained]:
    """Fine-tune each of `models` on a folder of recordings, and score it and its stock model on held-out clips.

    One model is written to the Hugging Face folder `out`, of several each to a folder of its name in `out`; they share
    the decoded audio, and the features where they are of one kind. Held-out are the clips of `validation_data`, else
    those in `validation/`, else the split by transcript. Of several processes (`torchrun`) the first alone scores.
    Raises UsageError (`out` stands in the way), DatasetError, CheckpointError, JobError, JobStopped.
    """
    from training.finetune import Source
    from training.processes import is_main

    collect_rarely()
    places = output_folders(models, out)
    bases = [base_models.resolve(model, cache) for model in models]
    reporter.stage("prepare")
    left_out = _LeftOut(reporter, *filter(None, (train_data, validation_data)))
    sides = _sides(_read(train_data, left_out), all_teach=validation_data is not None)
    if not validation_data and (train_data / VALIDATION).is_dir() and not any(clip.side for clip in sides["held-out"]):
        told = "holds no recording with its text: a fifth of the others is held out instead"
        reporter.warning(f"{train_data / VALIDATION} {told}")
    held_out = _read(validation_data, left_out) if validation_data else sides["held-out"]
    sources = [
        Source(_name(clip, train_data), pcm, clip.text, clip.language or language, side == "select")
        for side in ("train", "select")
        for clip, pcm in _decoded(sides[side], reporter, left_out)
    ]
    judged: list[EvaluationClip] = []
    if is_main():
        folder = validation_data or train_data
        judged = _unheard(_evaluation_clips(held_out, folder, reporter, left_out), sources, reporter)
        warn_of_few(judged, folder, _more(train_data, validation_data), reporter)
    options = DecodingOptions(language)
    trained = [
        _taught(model, base, sources, place, settings, judged, options, cache, reporter, left_out.found)
        for model, base, place in zip(models, bases, places, strict=True)
    ]
    if is_main():
        forget(places)
    return trained


def output_folders(models: Sequence[str], out: Path) -> list[Path]:
    """Where each model goes.

    Raises UsageError for two of one name; where something stands in the way, other than what the same command made
    before it was stopped; and where nothing can be written, before hours are spent on what it shall hold.
    """
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise UsageError(f"two models are called alike: {', '.join(models)}", "train them one after the other")
    places = [out] if len(models) == 1 else [out / name for name in names]
    for place in places:
        if os.path.exists(place) and not is_noted(place):  # noqa: PTH110  Path's raises in a closed folder
            raise _in_the_way(place)
    above = next(folder for folder in places[0].absolute().parents if os.path.exists(folder))  # noqa: PTH110
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "cannot be written" if above.is_dir() else "is no folder"
        raise UsageError(f"cannot write {out}: {above} {reason}", "name an --output in a folder of yours")
    return places


def _in_the_way(place: Path) -> UsageError:
    return UsageError(f"{place} exists already", "name another --output, or move it away")


def evaluation_clips(folder: Path, reporter: Reporter) -> list[EvaluationClip]:
    """What `folder` holds to score on: the clips of its validation/ where it has one, else all; those that no model can
    hear are told. Raises DatasetError.
    """
    left_out = _LeftOut(reporter, folder)
    clips = _read(folder, left_out)
    if (folder / VALIDATION).is_dir():
        clips = [clip for clip in clips if clip.side == "held-out"]
        if not clips:
            raise DatasetError(
                f"{folder / VALIDATION}: no recording with its text",
                "put some in it, or take the folder away to score on all",
            )
    return _evaluation_clips(clips, folder, reporter, left_out)


def transcribe(
    model: str, files: Sequence[Path], options: DecodingOptions, cache: Path
) -> Iterator[tuple[Path, Transcription | AudioError]]:
    """Each file's text, or why it has none; audio longer than 30 s is cut at the quietest point near a window's end.

    Raises UsageError, CheckpointError, ArtifactError, RuntimeFailed.
    """
    from training.audio import decode

    transcriber: Transcriber | None = None  # opening one takes seconds, and there may be nothing to hear
    try:
        for file in files:
            try:
                if not file.is_file():
                    reason = "not a regular file" if file.exists() else "there is no such file"
                    raise AudioError(f"{file}: {reason}", "name audio files")
                pcm = decode(file)
            except AudioError as error:
                yield file, error
                continue
            transcriber = transcriber or open_model(model, cache)
            answers = [transcriber.transcribe(window, options) for window in windows(pcm)]
            text = " ".join(answer.text for answer in answers if answer.text)
            yield (
                file,
                Transcription(text, sum(a.duration_s for a in answers), sum(a.compute_s for a in answers)),
            )
    finally:
        if transcriber:
            transcriber.close()


def windows(pcm: Any) -> Iterator[Any]:  # noqa: ANN401
    """1-D float32 pieces of at most 30 s, cut at the quietest 0.1 s of their last ten seconds."""
    import numpy as np

    from idiolect.whisper import MAX_SAMPLES, RATE_HZ

    step = RATE_HZ // 10
    while len(pcm) > MAX_SAMPLES:
        tail = pcm[MAX_SAMPLES - 10 * RATE_HZ : MAX_SAMPLES]
        energies = np.square(tail.reshape(-1, step)).sum(axis=1)
        cut = MAX_SAMPLES - 10 * RATE_HZ + int(energies.argmin()) * step + step // 2
        yield pcm[:cut]
        pcm = pcm[cut:]
    yield pcm


@contextlib.contextmanager
def stopping_on_interrupt(reporter: Reporter) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the work to save and stop; the second time they end it at once."""

    def ask(signum: int, frame: FrameType | None) -> None:
        if reporter.stop.is_set():
            raise KeyboardInterrupt
        reporter.stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _taught(
    model: str,
    base: Path,
    sources: Sequence[Source],
    place: Path,
    settings: Settings,
    judged: Sequence[EvaluationClip],
    options: DecodingOptions,
    cache: Path,
    reporter: Reporter,
    left_out: Sequence[str],
) -> Trained:
    from training.finetune import finetune
    from training.model_card import Card, write_card
    from training.processes import is_main
    from training.trained_on import write_trained_on

    made_of = recipe(model, sources, settings)
    outcome = finished(place, made_of)
    if not outcome:
        if place.exists():
            raise _in_the_way(place)
        reporter.stage(f"train {model}")
        outcome = finetune(base, sources, place, settings, reporter, cache / MELS)
    left_out = (*left_out, *outcome.skipped)
    if not is_main():
        return Trained(model, outcome, (), left_out)
    card = Card(
        base=base_models.hub_id(model) or Path(model).name,
        license=base_models.license_of(model),
        languages=sorted({source.language for source in sources}),
        clips=outcome.clips,
        audio_s=outcome.audio_s,
        steps=outcome.steps,
        held_out_clips=len(judged),
    )
    note(place, made_of, outcome)
    write_trained_on(place, (source.pcm for source in sources))
    write_card(place, card)  # before the scores too: they take long, and may be stopped
    if not judged:
        return Trained(model, outcome, (), left_out)
    stock, tuned = _scored([model, str(place)], judged, options, cache, reporter)
    write_card(place, replace(card, wer_stock=stock.wer, wer_tuned=tuned.wer, held_out_clips=tuned.clips))
    return Trained(model, outcome, (stock, tuned), left_out)


def _scored(
    models: Sequence[str], clips: Sequence[EvaluationClip], options: DecodingOptions, cache: Path, reporter: Reporter
) -> Iterator[Evaluation]:
    from training.evaluate import evaluate as score

    for model in models:
        reporter.stage(f"score {model}")
        transcriber = open_model(model, cache)
        transcriber.name = model
        try:
            yield score(transcriber, clips, options, reporter)
        finally:
            transcriber.close()


class _LeftOut:
    """Recordings that cannot be used: told as they are found, and kept for the count."""

    def __init__(self, reporter: Reporter, *folders: Path) -> None:
        self.found: list[str] = []
        self._reporter, self._folders = reporter, folders

    def __call__(self, path: Path, reason: str, at: str = "") -> None:
        folder = next(folder for folder in self._folders if path.is_relative_to(folder))
        self.found.append(f"{path.relative_to(folder).as_posix()}{at}: {reason.removeprefix(f'{path}: ')}")
        self._reporter.warning(f"left out {self.found[-1]}")


def warn_of_few(judged: Sequence[EvaluationClip], folder: Path, more: str, reporter: Reporter) -> None:
    """Tell where `judged`, from `folder`, are too few to say which model is better; `more` is how to get more."""
    from training.scoring import basic_normalize
    from training.split import MIN_JUDGED_CLIPS, MIN_JUDGED_WORDS, is_judgeable

    words = sum(len(basic_normalize(clip.text).split()) for clip in judged)
    if not judged:
        reporter.warning(f"{folder}: no held-out clips, the new model is not measured: {more}")
    elif not is_judgeable(len(judged), words):
        reporter.warning(
            f"{folder}: clips to judge by: {len(judged)}, with {words} words, are too few "
            f"(at least {MIN_JUDGED_CLIPS} and {MIN_JUDGED_WORDS}): {more}"
        )


def _more(train_data: Path, validation_data: Path | None) -> str:
    """How the user names more clips to judge by."""
    folder = validation_data or train_data / VALIDATION
    return f"put more into {folder}" if folder.is_dir() else "name some by --val-data"


def _read(folder: Path, left_out: _LeftOut) -> list[Clip]:
    from training.clips import read_folder

    return read_folder(folder, left_out)


def _sides(clips: Sequence[Clip], *, all_teach: bool) -> dict[str, list[Clip]]:
    """Clips by side; where the user made a validation/ folder, or `all_teach`, nothing else is held out."""
    from training.split import side

    declared = all_teach or any(clip.side == "held-out" for clip in clips)
    sides: dict[str, list[Clip]] = {"train": [], "select": [], "held-out": []}
    for clip in clips:
        sides[side(clip.text, clip.side or ("train" if declared else None))].append(clip)
    return sides


def _decoded(clips: Sequence[Clip], reporter: Reporter, left_out: _LeftOut) -> Iterator[tuple[Clip, Any]]:
    from training.audio import decode

    for done, clip in enumerate(clips):
        reporter.check_stop()
        try:
            yield clip, decode(clip.path, clip.start_s, clip.end_s)
        except (AudioError, OSError) as error:
            left_out(clip.path, one_line(error), _at(clip))
        reporter.progress(done + 1, len(clips), "clips")


def _evaluation_clips(
    clips: Sequence[Clip], folder: Path, reporter: Reporter, left_out: _LeftOut
) -> list[EvaluationClip]:
    from training.evaluate import EvaluationClip
    from training.quality import check_audible

    found = []
    for clip, pcm in _decoded(clips, reporter, left_out):
        try:
            check_audible(pcm)
        except DatasetError as error:
            left_out(clip.path, one_line(error), _at(clip))
        else:
            found.append(EvaluationClip(_name(clip, folder), pcm, clip.text, clip.language or ""))
    return found


def _unheard(judged: Sequence[EvaluationClip], sources: Sequence[Source], reporter: Reporter) -> list[EvaluationClip]:
    """The clips that are not among those to learn from: what is known by heart measures nothing."""
    from training.audio import pcm_sha256

    taught = {pcm_sha256(source.pcm) for source in sources}
    unheard = [clip for clip in judged if pcm_sha256(clip.pcm) not in taught]
    if known := len(judged) - len(unheard):
        reporter.warning(
            f"left out {known} of {len(judged)} clips to judge by: they are also among those to learn from"
        )
    return unheard


def _name(clip: Clip, folder: Path) -> str:
    return clip.path.relative_to(folder).as_posix() + _at(clip)


def _at(clip: Clip) -> str:
    """When a clip begins, where its recording holds more."""
    return "" if clip.end_s is None else f" at {clip.start_s:.1f} s"
