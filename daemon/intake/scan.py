"""What lies in a watched folder right now, and which of it has stood still long enough to be read."""

from __future__ import annotations

import contextlib
import operator
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.clips import METADATA_NAMES, TEXT_SUFFIXES, is_audio
from training.sync_names import is_conflict, is_temporary, placeholder_for


@dataclass(frozen=True)
class Stamp:
    """What changes when a recording or its text does. `texts` names every text file that may speak for it.

    `identities` are inode:ctime_ns of the recording, then of each text beside it: they tell files apart that were
    swapped by name. Of one file each alone may change, the inode when some disks are mounted, the ctime by `chmod`;
    of another both do. Unknown, and on file systems without them, they tell nothing.
    """

    size_bytes: int
    mtime_ns: int
    texts: str
    identities: str = ""

    def differs(self, known: Stamp) -> bool:
        """Whether the recording or its text may be another than when it was known by that stamp."""
        known_as = (known.size_bytes, known.mtime_ns, known.texts)
        return (self.size_bytes, self.mtime_ns, self.texts) != known_as or any(self._others(known))

    def same_audio(self, known: Stamp) -> bool:
        """Whether at most the text changed."""
        same = (self.size_bytes, self.mtime_ns) == (known.size_bytes, known.mtime_ns)
        return same and not next(self._others(known), False)

    def _others(self, known: Stamp) -> Iterator[bool]:
        """Of each file whether it is another one."""
        if self.identities != known.identities:
            for mine, before in zip(self.identities.split(), known.identities.split(), strict=False):
                yield all(map(operator.ne, mine.split(":"), before.split(":")))


@dataclass
class Listing:
    """One look at a folder. All paths are absolute.

    `recordings` with their stamps; `unreadable` folders with the reason; `conflicts`, second versions that a sync tool
    made of recordings and texts; `remote`, recordings of which only a placeholder is here; `mounts`, folders where
    another file system begins; `folders`, the inode numbers of all folders that were listed.
    """

    recordings: dict[str, Stamp] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    remote: set[str] = field(default_factory=set)
    mounts: set[str] = field(default_factory=set)
    folders: set[int] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        """Whether `path` may well be there although it is not listed."""
        return path in self.remote or any(is_below(path, folder) for folder in self.unreadable)


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_mount(folder: str) -> bool:
    """Whether another file system begins at `folder`, or where it links to. False when it is missing."""
    try:
        real = os.path.realpath(folder)
        return os.stat(real).st_dev != os.stat(os.path.dirname(real)).st_dev  # noqa: PTH116, PTH120
    except OSError:
        return False


def scan(folder: Path) -> Listing:
    """List the recordings below `folder`, following no links. A missing folder is an unreadable one."""
    listing = Listing()
    if is_mount(str(folder)):
        listing.mounts.add(str(folder))
    pending = [(str(folder), "", *_identity(folder))]  # with what metadata above says
    while pending:
        at, above, device, inode = pending.pop()
        try:
            found = _entries(at, listing)
        except OSError as error:
            if at == str(folder) or not isinstance(error, FileNotFoundError):
                listing.unreadable[at] = error.strerror or type(error).__name__
            continue
        listing.folders.add(inode)
        above += "".join(_mark(name, found[name]) for name in METADATA_NAMES if name in found)
        texts = _texts_by_stem(found)
        for name, status in found.items():
            path = _joined(at, name)
            if stat.S_ISDIR(status.st_mode):
                pending.append((path, above, status.st_dev, status.st_ino))
                if status.st_dev != device and is_usable_name(path):
                    listing.mounts.add(path)
            linked_folder = stat.S_ISLNK(status.st_mode) and os.path.isdir(path)  # noqa: PTH112
            if is_audio(name) or linked_folder:  # either is listed, so that the user hears of it
                stem = os.path.splitext(name)[0]  # noqa: PTH122
                marks, identities = texts.get(stem, ("", ""))
                identities = _identity_of(status) + identities
                listing.recordings[path] = Stamp(status.st_size, status.st_mtime_ns, marks + above, identities)
    return listing


def is_usable_name(path: str) -> bool:
    """Whether a path can travel as text to the training job: names of other encodings cannot."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(path: str) -> str:
    """A path as text that can be stored and shown: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


class Settling:
    """Tells when a recording's stamp has stood still for `settle_s` seconds of a monotonic clock."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self.due_s = 0.0
        """When the first of those that had not settled may have, on that clock."""
        self._since: dict[str, tuple[Stamp, float]] = {}

    def settled(self, changed: Mapping[str, Stamp], now_s: float) -> list[str]:
        """Which of the `changed` recordings have settled, by name. What is no longer named is forgotten."""
        before, self._since = self._since, {}
        for path, stamp in changed.items():
            seen = before.get(path)
            self._since[path] = seen if seen is not None and not stamp.differs(seen[0]) else (stamp, now_s)
        unsettled_s = [since_s for _, since_s in self._since.values() if now_s - since_s < self._settle_s]
        self.due_s = min(unsettled_s, default=now_s) + self._settle_s
        return sorted(path for path, (_, since_s) in self._since.items() if now_s - since_s >= self._settle_s)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _entries(at: str, listing: Listing) -> dict[str, os.stat_result]:
    """What a folder holds that counts; conflict copies and placeholders are noted in `listing`. Raises OSError."""
    found = {}
    with os.scandir(at) as entries:
        for entry in entries:
            name = entry.name
            stands_for = placeholder_for(name)
            if stands_for is not None and is_audio(stands_for):
                listing.remote.add(_joined(at, stands_for))
            elif is_temporary(name):
                continue
            elif is_conflict(name):
                if is_audio(name) or name.lower().endswith(TEXT_SUFFIXES):
                    listing.conflicts.append(_joined(at, name))
            else:
                with contextlib.suppress(FileNotFoundError):  # it was renamed a moment ago
                    found[name] = entry.stat(follow_symlinks=False)
    return found


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip(os.sep)}{os.sep}{name}"


def _texts_by_stem(found: Mapping[str, os.stat_result]) -> dict[str, tuple[str, str]]:
    """Marks and identities of the text files of a folder by the stem they share with a recording."""
    texts: dict[str, tuple[str, str]] = {}
    for name in sorted(found):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in TEXT_SUFFIXES:
            marks, identities = texts.get(stem, ("", ""))
            texts[stem] = marks + _mark(name, found[name]), f"{identities} {_identity_of(found[name])}"
    return texts


def _identity_of(status: os.stat_result) -> str:
    return f"{status.st_ino}:{status.st_ctime_ns}"


def _mark(name: str, status: os.stat_result) -> str:
    return f"{readable(name)}\0{status.st_size}\0{status.st_mtime_ns}\0" if stat.S_ISREG(status.st_mode) else ""
