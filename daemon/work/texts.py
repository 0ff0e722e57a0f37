"""Texts for recordings that have none, or only one long one: drafts to correct, and cues cut from a transcript."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.child import Reporter
from idiolect.errors import AudioError, DatasetError, UsageError
from idiolect.files import write_text
from idiolect.transcriber import DecodingOptions
from training import base_models
from training.clips import CUE_SUFFIXES, clips_of, find_recordings, find_texts

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.paths import Paths

DRAFT_SUFFIX = ".draft.txt"
"""What a draft is called after the recording's stem; it counts once it is called .txt."""


@dataclass(frozen=True)
class Aligned:
    """A long recording and what was cut of it: `kept_s` of `duration_s`, in so many cues; `restored` words put back."""

    path: Path
    duration_s: float
    kept_s: float
    cues: int
    restored: int
    srt: Path | None


def best_model(runs: Sequence[Mapping[str, Any]], paths: Paths, config: Config) -> str:
    """The largest model that was published here, newest first, else the largest stock model of [training] tiers.

    `runs` as `status` lists them. Raises UsageError where none is on this machine.
    """
    sizes = list(base_models.TIERS)
    tuned = [run for run in runs if run["state"] == "published" and (paths.runs / run["id"] / "checkpoint").is_dir()]
    if tuned:
        best = max(tuned, key=lambda run: sizes.index(run["tier"]) if run["tier"] in sizes else -1)
        return str(paths.runs / best["id"] / "checkpoint")
    cached = [tier for tier in config.training.tiers if base_models.is_cached(config.base(tier), paths.cache)]
    if cached:
        return config.base(max(cached, key=lambda tier: sizes.index(tier) if tier in sizes else -1))
    tiers = " ".join(config.training.tiers)
    raise UsageError("there is no model on this machine to listen with", f"run: idiolect models fetch {tiers}")


def without_text(folder: Path) -> list[Path]:
    """The recordings below `folder` that have neither text nor draft. Raises UsageError where there is no folder."""
    _check_folder(folder)
    return [
        audio
        for audio in find_recordings(folder)
        if not audio.is_symlink() and not _has_text(audio, folder) and not audio.with_suffix(DRAFT_SUFFIX).exists()
    ]


def draft(
    recordings: Sequence[Path], model: str, options: DecodingOptions, cache: Path, reporter: Reporter
) -> Iterator[Path]:
    """Write down what `model` hears in each recording as its draft; the drafts. What cannot be read is a warning."""
    from daemon.work.direct import transcribe

    reporter.stage("writing drafts")
    for done, (audio, heard) in enumerate(transcribe(model, recordings, options, cache), start=1):
        reporter.check_stop()
        if isinstance(heard, AudioError):
            reporter.warning(heard.message)
        elif not heard.text:
            reporter.warning(f"{audio}: nothing was heard in it")
        else:
            path = audio.with_suffix(DRAFT_SUFFIX)
            write_text(path, heard.text + "\n")
            yield path
        reporter.progress(done, len(recordings), "recordings")


def accept(folder: Path) -> list[Path]:
    """Let every draft below `folder` count whose recording still has no text; the texts."""
    _check_folder(folder)
    accepted = []
    for audio in find_recordings(folder):
        found = audio.with_suffix(DRAFT_SUFFIX)
        if found.is_file() and not found.is_symlink() and not _has_text(audio, folder):
            accepted.append(found.rename(audio.with_suffix(".txt")))
    return accepted


def align(folder: Path, model: str, options: DecodingOptions, cache: Path, reporter: Reporter) -> Iterator[Aligned]:
    """Cut each long recording below `folder` by its NAME.txt: NAME.srt with the cues in which both agree.

    `srt` is None where nothing agreed, and then nothing is written. A recording that has cues is left alone.
    """
    from daemon.work.direct import open_model
    from idiolect.whisper import MAX_S, RATE_HZ
    from training.audio import decode, duration_s
    from training.segments import joined, pieces, segments, to_srt
    from training.transcripts import read_text

    _check_folder(folder)
    reporter.stage("aligning")
    recordings = list(find_recordings(folder))
    for text, cues in (found for audio in recordings for found in _edited_since(audio)):
        reporter.warning(f"{text} is newer than {cues.name}, whose cues count: delete {cues.name} to have it cut again")
    chosen = [audio for audio in recordings if _has_only_text(audio, folder)]
    transcriber = open_model(model, cache)
    try:
        for done, audio in enumerate(chosen, start=1):
            reporter.check_stop()
            reporter.progress(done - 1, len(chosen), "recordings")
            try:
                pcm, transcript = decode(audio), read_text(audio.with_suffix(".txt"))
            except (AudioError, DatasetError) as error:
                reporter.warning(error.message)
                continue
            if duration_s(pcm) <= MAX_S:
                continue
            spans = pieces(pcm)
            parts = [pcm[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] for start_s, end_s in spans]
            heard = [answer.text for answer in transcriber.transcribe_many(parts, options)]
            kept = joined(segments(spans, heard, transcript))
            srt = audio.with_suffix(".srt") if kept else None
            if srt is not None:
                write_text(srt, to_srt(kept))
            kept_s, restored = sum(each.end_s - each.start_s for each in kept), sum(each.restored for each in kept)
            yield Aligned(audio, duration_s(pcm), kept_s, len(kept), restored, srt)
    finally:
        transcriber.close()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder", "name a folder with recordings")


def _has_text(audio: Path, folder: Path) -> bool:
    try:
        return bool(clips_of(audio, find_texts(audio, folder), folder, lambda path, reason: None))
    except DatasetError:
        return True  # a text that cannot be used is the user's to mend


def _edited_since(audio: Path) -> Iterator[tuple[Path, Path]]:
    """A recording's text and the cues beside it that are older."""
    text = audio.with_suffix(".txt")
    for cues in map(audio.with_suffix, sorted(CUE_SUFFIXES)):
        if text.is_file() and cues.is_file() and text.stat().st_mtime_ns > cues.stat().st_mtime_ns:
            yield text, cues


def _has_only_text(audio: Path, folder: Path) -> bool:
    texts = [path for path in find_texts(audio, folder) if path.stem == audio.stem]
    return (
        not audio.is_symlink()
        and audio.with_suffix(".txt") in texts
        and not any(path.suffix.lower() in CUE_SUFFIXES for path in texts)
    )
