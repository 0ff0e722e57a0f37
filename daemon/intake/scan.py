"""What lies in a watched folder right now, and which of it has stood still long enough to be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.clips import METADATA_NAMES, TEXT_SUFFIXES, is_audio, is_ignored


@dataclass(frozen=True)
class Stamp:
    """What changes when a recording or its text does. `texts` names every text file that may speak for it."""

    size_bytes: int
    mtime_ns: int
    texts: str

    def same_audio(self, other: Stamp) -> bool:
        """Whether at most the text changed."""
        return (self.size_bytes, self.mtime_ns) == (other.size_bytes, other.mtime_ns)


@dataclass
class Listing:
    """One look at a folder: recordings by absolute path, and the folders nobody could look into, with the reason."""

    recordings: dict[str, Stamp] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def hides(self, path: str) -> bool:
        """Whether `path` may well be there although it is not listed."""
        return any(path == folder or path.startswith(folder + os.sep) for folder in self.unreadable)


def scan(folder: Path) -> Listing:
    """List the recordings below `folder`, following no links. A missing folder is an unreadable one."""
    listing = Listing()
    pending: list[tuple[str, str]] = [(str(folder), "")]  # with what the metadata above says
    while pending:
        at, above = pending.pop()
        try:
            with os.scandir(at) as entries:
                found = {
                    entry.name: entry.stat(follow_symlinks=False) for entry in entries if not is_ignored(entry.name)
                }
        except OSError as error:
            if at == str(folder) or not isinstance(error, FileNotFoundError):
                listing.unreadable[at] = error.strerror or type(error).__name__
            continue
        tables = "".join(_mark(name, found[name]) for name in METADATA_NAMES if name in found)
        texts = _texts_by_stem(found)
        above += tables
        for name, status in found.items():
            path = f"{at}{os.sep}{name}" if not at.endswith(os.sep) else at + name
            if stat.S_ISDIR(status.st_mode):
                pending.append((path, above))
            linked_folder = stat.S_ISLNK(status.st_mode) and os.path.isdir(path)  # noqa: PTH112
            if is_audio(name) or linked_folder:  # either is listed, so that the user hears of it
                stem = os.path.splitext(name)[0]  # noqa: PTH122
                listing.recordings[path] = Stamp(status.st_size, status.st_mtime_ns, texts.get(stem, "") + above)
    return listing


def is_usable_name(path: str) -> bool:
    """Whether a path can travel as text to the training job: names of other encodings cannot."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class Settling:
    """Tells when a recording's stamp has stood still for `settle_s` seconds of a monotonic clock."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[str, tuple[Stamp, float]] = {}

    def settled(self, changed: Mapping[str, Stamp], now_s: float) -> list[str]:
        """Which of the `changed` recordings have settled, by name. What is no longer named is forgotten."""
        before, self._since = self._since, {}
        for path, stamp in changed.items():
            seen = before.get(path)
            self._since[path] = seen if seen is not None and seen[0] == stamp else (stamp, now_s)
        return sorted(path for path, (_, since_s) in self._since.items() if now_s - since_s >= self._settle_s)


def _texts_by_stem(found: Mapping[str, os.stat_result]) -> dict[str, str]:
    """The text files of a folder by the stem they share with a recording."""
    texts: dict[str, str] = {}
    for name in sorted(found):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in TEXT_SUFFIXES:
            texts[stem] = texts.get(stem, "") + _mark(name, found[name])
    return texts


def _mark(name: str, status: os.stat_result) -> str:
    return f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0" if stat.S_ISREG(status.st_mode) else ""
