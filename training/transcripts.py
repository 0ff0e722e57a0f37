"""Text files beside recordings: plain text, subtitle cues, metadata tables. Each is read whole and small."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from idiolect.errors import DatasetError

MAX_TEXT_BYTES = 1 << 20
MAX_METADATA_BYTES = 64 << 20
MAX_CHARS_PER_S = 40
"""Twice what the fastest speakers reach."""

_TEXT_KEYS = ("text", "transcription", "sentence")
_TIMES = re.compile(r"^\s*((?:\d+:)?\d+:\d+[.,]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[.,]\d+)")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Cue:
    """A piece of a long recording and its words; times in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Row:
    """What a metadata table says of one recording. `text` may be empty; `language` is as written."""

    text: str
    language: str | None = None


@dataclass(frozen=True)
class Metadata:
    """A metadata table: its rows by `file_name` (NFC, relative, with forward slashes) and the lines left out."""

    rows: Mapping[str, Row]
    problems: tuple[str, ...] = ()

    def find(self, relative: PurePosixPath) -> Row | None:
        """The row of a recording, by its path relative to the table's folder."""
        return self.rows.get(_key(str(relative)))


def read_text(path: Path) -> str:
    """The words of a NAME.txt on one line. Raises DatasetError when it is empty or no UTF-8 text."""
    text = " ".join(_read(path, MAX_TEXT_BYTES).split())
    if not text:
        raise DatasetError(f"{path}: the text is empty", "write what is said in the recording")
    return text


def read_cues(path: Path) -> list[Cue]:
    """The cues of a .srt or .vtt file that hold words, sorted by start. Raises DatasetError when there are none."""
    cues = []
    for block in re.split(r"\n\s*\n", _read(path, MAX_TEXT_BYTES)):
        lines = block.strip().split("\n")
        for i, line in enumerate(lines[:2]):  # the times stand first, or after the cue's number or name
            if times := _TIMES.match(line):
                text = " ".join(html.unescape(_MARKUP.sub("", " ".join(lines[i + 1 :]))).split())
                start_s, end_s = _seconds(times[1]), _seconds(times[2])
                if math.isfinite(start_s + end_s) and any(char.isalnum() for char in text):
                    cues.append(Cue(start_s, end_s, text))
                break
    if not cues:
        raise DatasetError(
            f"{path}: there is no cue with words in it", 'a cue has times as in "00:00:01,500 --> 00:00:04,000"'
        )
    return sorted(cues, key=lambda cue: (cue.start_s, cue.end_s))


def read_metadata(path: Path) -> Metadata:
    """A metadata.jsonl or metadata.csv with `file_name` and `text` (or `transcription`, or `sentence`).

    Lines that cannot be used become `problems`; DatasetError only when the file as a whole is no UTF-8 text.
    """
    text = _read(path, MAX_METADATA_BYTES)
    rows: dict[str, Row] = {}
    problems = []
    for line, record in _csv_records(text) if path.suffix.lower() == ".csv" else _json_records(text):
        name = record.get("file_name")
        language = record.get("language")
        # a row may say the language alone, where the words stand beside the recording
        no_words = "" if language else None
        words = next((record[key] for key in _TEXT_KEYS if record.get(key) is not None), no_words)
        if not (_is_text(name) and _is_text(words) and (language is None or _is_text(language))):
            problems.append(f'{path.name} line {line} has no "file_name" and "text"')
            continue
        rows[_key(name)] = Row(" ".join(words.split()), language or None)
    return Metadata(rows, tuple(problems))


def check_length(text: str, duration_s: float) -> str | None:
    """Why so much text cannot be spoken in so little time, or None."""
    if len(text) <= MAX_CHARS_PER_S * max(1.0, duration_s):
        return None
    return f"{len(text)} characters of text for {duration_s:.1f} s of audio are more than anyone can say"


def _read(path: Path, max_bytes: int) -> str:
    try:
        if not path.is_file():  # a pipe would block
            raise DatasetError(
                f"{path}: not a text file but a folder, a pipe or nothing at all", "put a text file there"
            )
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}", "check that it is yours to read") from error
    if len(data) > max_bytes:
        reason = f"too large for a text of speech (over {max_bytes >> 20} MiB)"
        raise DatasetError(f"{path}: {reason}", "write what is said in the recording, and nothing else")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: the text is not UTF-8 (byte {error.start})", "save it again as UTF-8") from error
    if "\0" in text:
        raise DatasetError(f"{path}: the text is not UTF-8 but UTF-16 or no text", "save it again as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string that can be written down again: JSON allows half a surrogate pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _seconds(clock: str) -> float:
    total = 0.0
    for part in clock.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name.replace("\\", "/"))))


def _json_records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield number, record if isinstance(record, dict) else {}


def _csv_records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error:
        yield reader.line_num, {}
