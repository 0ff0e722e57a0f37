"""Clips: what a folder of recordings and their texts holds to learn from.

    NAME.wav + NAME.txt                  one clip
    NAME.wav + NAME.srt or NAME.vtt      one clip a cue
    metadata.jsonl or metadata.csv       `file_name`, `text` and `language`, in the recording's folder or above it; the
                                         language counts for words beside the recording too

`train/` and `validation/` directly below the folder say what their recordings are for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from idiolect.errors import DatasetError, one_line
from idiolect.whisper import LANGUAGES, MAX_S
from training.split import Side
from training.sync_names import is_ignored
from training.transcripts import Cue, Metadata, read_cues, read_metadata, read_text

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm", ".amr", ".3gp", ".3gpp"})
CUE_SUFFIXES = (".srt", ".vtt")
TEXT_SUFFIXES = (*CUE_SUFFIXES, ".txt")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
CUE_PADDING_S = 0.2
MIN_CUE_S = 0.1
DECLARED_SIDES: dict[str, Side] = {"train": "train", "validation": "held-out"}

OnProblem = Callable[[Path, str], None]


@dataclass(frozen=True)
class Clip:
    """One example: at most 30 s of a recording and its words. `end_s` None: to the end; `side` None: not declared."""

    path: Path
    text: str
    start_s: float = 0.0
    end_s: float | None = None
    language: str | None = None
    side: Side | None = None


def is_audio(name: str) -> bool:
    """Whether a file name is that of a recording."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES  # noqa: PTH122


def find_recordings(folder: Path) -> Iterator[Path]:
    """Every recording below `folder` in the order of names; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        yield from (Path(parent, name) for name in sorted(names) if is_audio(name) and not is_ignored(name))


def find_texts(audio: Path, folder: Path) -> list[Path]:
    """The files that may tell what `audio` says, the one that counts first: cues, NAME.txt, metadata up to `folder`."""
    beside = [audio.with_suffix(spelling) for suffix in TEXT_SUFFIXES for spelling in (suffix, suffix.upper())]
    above = [parent for parent in audio.parents if parent.is_relative_to(folder)]
    return [path for path in (*beside, *(at / name for at in above for name in METADATA_NAMES)) if path.is_file()]


def declared_side(audio: Path, folder: Path) -> Side | None:
    """The side that the folder directly below `folder` gives to `audio`."""
    parts = audio.relative_to(folder).parts
    return DECLARED_SIDES.get(parts[0].lower()) if len(parts) > 1 else None


def clips_of(audio: Path, texts: list[Path], folder: Path, on_problem: OnProblem | None = None) -> list[Clip]:
    """The clips of one recording by its `find_texts`; none while its text has not come.

    Raises DatasetError where the text cannot be used. A single cue that cannot be used is told to `on_problem`
    and left out; without `on_problem` it raises as well.
    """
    side = declared_side(audio, folder)
    for path in texts:
        if path.suffix.lower() in CUE_SUFFIXES:
            cues, language = _cue_clips(audio, path, side, on_problem), _declared_language(audio, texts)
            return [replace(clip, language=language) for clip in cues]
        if path.suffix.lower() == ".txt":
            return [Clip(audio, read_text(path), language=_declared_language(audio, texts), side=side)]
        row = _metadata(path).find(PurePosixPath(audio.relative_to(path.parent).as_posix()))
        if row is not None and (row.text or not row.language):  # or it says the language of words that stand elsewhere
            if not row.text:
                raise DatasetError(f"{path}: the text of {audio.name} is empty", "write what is said in the recording")
            return [Clip(audio, row.text, language=_declared_language(audio, texts), side=side)]
    return []


def read_folder(folder: Path, on_problem: OnProblem | None = None) -> list[Clip]:
    """Every clip of a dataset, in the order of names. The audio itself is not opened.

    `on_problem(path, reason)` is told of each recording or cue that cannot be used or has no text, and the rest
    goes on; without it the first text that cannot be used raises DatasetError. Raises DatasetError when the
    folder is missing or holds no recording with its text.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: there is no such folder", "name a folder with recordings and their texts")
    clips: list[Clip] = []
    silent = 0
    for audio in find_recordings(folder):
        texts = find_texts(audio, folder)
        try:
            found = clips_of(audio, texts, folder, on_problem)
        except DatasetError as error:
            if on_problem is None:
                raise
            on_problem(audio, one_line(error))
            continue
        if not found:
            silent += 1
            if on_problem is not None:
                on_problem(audio, missing_text(audio, texts))
        clips += found
    if not clips:
        raise DatasetError(
            f"{folder}: no recording with its text ({silent} without)",
            "put NAME.txt beside NAME.wav, or a metadata.jsonl with file_name and text",
        )
    return clips


def missing_text(audio: Path, texts: list[Path]) -> str:
    """What to say of a recording for which `texts` hold no words."""
    reason = f"no text yet: put {audio.stem}.txt beside it"
    problems = [problem for path in texts if path.name in METADATA_NAMES for problem in _metadata(path).problems]
    return f"{reason} ({problems[0]})" if problems else reason


def _cue_clips(audio: Path, path: Path, side: Side | None, on_problem: OnProblem | None) -> list[Clip]:
    clips = []
    cues = read_cues(path)
    for cue, (start_s, end_s) in zip(cues, _padded(cues), strict=True):
        if MIN_CUE_S <= cue.end_s - cue.start_s <= MAX_S:
            clips.append(Clip(audio, cue.text, start_s, min(end_s, start_s + MAX_S), side=side))
            continue
        reason = (
            f"{path.name}: the cue at {cue.start_s:.1f} s lasts {cue.end_s - cue.start_s:.2g} s "
            f"({MIN_CUE_S:g} to {MAX_S:g} s can be used)"
        )
        if on_problem is None:
            raise DatasetError(f"{audio}: {reason}")
        on_problem(audio, reason)
    return clips


def _padded(cues: list[Cue]) -> list[tuple[float, float]]:
    """Where to cut: a little outside each cue, whose times are seldom exact, and never into its neighbour."""
    spans = []
    said_until_s = 0.0
    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        before_s = min(CUE_PADDING_S, max(0.0, cue.start_s - said_until_s) / 2)
        after_s = (
            CUE_PADDING_S if following is None else min(CUE_PADDING_S, max(0.0, following.start_s - cue.end_s) / 2)
        )
        spans.append((max(0.0, cue.start_s - before_s), cue.end_s + after_s))
        said_until_s = max(said_until_s, cue.end_s)
    return spans


def _declared_language(audio: Path, texts: list[Path]) -> str | None:
    """What the nearest metadata table says that tells the recording's language."""
    for path in texts:
        row = None
        if path.name in METADATA_NAMES:
            with contextlib.suppress(DatasetError):  # a table that cannot be read is not needed here
                row = _metadata(path).find(PurePosixPath(audio.relative_to(path.parent).as_posix()))
        if row is not None and row.language:
            return _language(path, row.language)
    return None


def _language(path: Path, written: str) -> str:
    if written.lower() in LANGUAGES:
        return written.lower()
    raise DatasetError(f"{path}: {written!r} is no language of Whisper", 'a code such as "en", "he", "de"')


def _metadata(path: Path) -> Metadata:
    try:
        found = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    return _cached_metadata(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=16)
def _cached_metadata(path: Path, size_bytes: int, mtime_ns: int) -> Metadata:
    """A table names thousands of recordings, each asked for alone: parse it once until it changes."""
    return read_metadata(path)
