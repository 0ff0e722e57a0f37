"""Recordings that devices have sent: kept apart until the user takes them in, and taken out again by device.

    inbox.sqlite3      what came, from whom, what was decided
    arriving/          files on their way in
    kept/<name>.flac   those that wait for a decision

A recording becomes a new file below the recordings folder, and thereby something to learn from, only when the user
has taken it in or trusts its device. Its file is named by its digest and its folder by the device's id; nothing that a
device says becomes part of a path unchecked. One process at a time: the one that holds the home's lock.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daemon.sync.devices import Device
from idiolect.errors import StoreError, UsageError
from idiolect.files import free_bytes, replacing, sync_folder, write_text
from idiolect.sending import RecordingMeta

State = Literal["waiting", "taken", "refused"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS recordings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL, device_label TEXT NOT NULL,
    sha256 TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('waiting', 'taken', 'refused')),
    kept TEXT NOT NULL, size_bytes INTEGER NOT NULL, duration_s REAL NOT NULL, pcm_sha256 TEXT NOT NULL,
    meta TEXT, path TEXT, received_s REAL NOT NULL, UNIQUE (device_id, sha256)
) STRICT;
CREATE TABLE IF NOT EXISTS trusted (device_id TEXT PRIMARY KEY) STRICT;
"""
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Quota:
    """How much devices may leave here, taken in or waiting, and how much of the disk stays free in any case."""

    per_device_bytes: int = 2 << 30
    total_bytes: int = 20 << 30
    free_bytes: int = 5 << 30


@dataclass(frozen=True)
class Recording:
    """One that was sent. `sha256` is of the file as it was sent; `path` is where it is put as it is taken in."""

    number: int
    device_id: str
    device_label: str
    sha256: str
    state: State
    size_bytes: int
    duration_s: float
    pcm_sha256: str
    meta: RecordingMeta | None
    path: Path | None
    kept: Path
    received_s: float


@dataclass(frozen=True)
class Transcoded:
    """A plain recording made of what was sent, at `file` in the arriving folder."""

    file: Path
    duration_s: float
    pcm_sha256: str


class Full(Exception):
    """No room for another recording; the text says why."""


class AlreadyTaken(Exception):
    """The text of a recording that was taken in can only be changed where it lies now."""


class Inbox:
    """The folder `root` (0700), from which recordings go to `recordings`. Raises StoreError where it is damaged."""

    def __init__(self, root: Path, recordings: Path, quota: Quota | None = None) -> None:
        self._recordings = recordings
        self._quota = quota or Quota()
        self.arriving, self._kept = root / "arriving", root / "kept"
        try:
            for folder in (root, self.arriving, self._kept):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (root / "inbox.sqlite3").touch(mode=0o600)
            self._db = sqlite3.connect(root / "inbox.sqlite3", check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
            self._remove_leftovers()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the inbox {root} cannot be read: {error}", "move it away; what was taken in already is not in it"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # What devices do

    def find(self, device_id: str, sha256: str) -> Recording | None:
        """What this device has sent before under this digest, whatever became of it."""
        row = self._db.execute(
            "SELECT * FROM recordings WHERE device_id = ? AND sha256 = ?", (device_id, sha256)
        ).fetchone()
        return self._recording(row) if row else None

    def check_room(self, device_id: str, size_bytes: int) -> None:
        """Raise Full where one more of this size would be too much."""
        counted = "SELECT total(size_bytes) FROM recordings WHERE state != 'refused'"
        (total,) = self._db.execute(counted).fetchone()
        (own,) = self._db.execute(f"{counted} AND device_id = ?", (device_id,)).fetchone()
        if own + size_bytes > self._quota.per_device_bytes:
            raise Full("this device has sent as much as it may")
        if total + size_bytes > self._quota.total_bytes:
            raise Full("the inbox is full")
        if free_bytes(self.arriving) - size_bytes < self._quota.free_bytes:
            raise Full("the disk is nearly full")

    def add(self, device: Device, sha256: str, transcoded: Transcoded) -> Recording:
        """Keep what `device` has sent as the file with this digest; once, also where it came twice. Raises Full."""
        size_bytes = transcoded.file.stat().st_size
        self.check_room(device.id, size_bytes)
        kept = self._kept / f"{uuid.uuid4().hex}.flac"
        said = (device.id, device.label, sha256, kept.name, size_bytes, transcoded.duration_s, transcoded.pcm_sha256)
        added = 0
        try:
            with full_disk(), self._db:
                transcoded.file.rename(kept)
                sync_folder(self._kept)
                added = self._db.execute(
                    "INSERT OR IGNORE INTO recordings (device_id, device_label, sha256, state, kept, size_bytes, "
                    "duration_s, pcm_sha256, received_s) VALUES (?, ?, ?, 'waiting', ?, ?, ?, ?, ?)",
                    (*said, time.time()),
                ).rowcount
        finally:
            if not added:
                kept.unlink(missing_ok=True)
        found = self.find(device.id, sha256)
        assert found is not None
        return found

    def describe(self, recording: Recording, meta: RecordingMeta) -> Recording:
        """Note what is said in it; that of a trusted device is taken in now. Raises AlreadyTaken, Full."""
        if recording.state == "refused" or (recording.state, recording.meta) == ("taken", meta):
            return recording
        if recording.state == "taken":
            raise AlreadyTaken
        with full_disk():
            with self._db:
                said = meta.model_dump_json()
                self._db.execute("UPDATE recordings SET meta = ? WHERE number = ?", (said, recording.number))
            if recording.device_id in self.trusted():
                return self.take(recording.number)
        return self.get(recording.number)

    # What the user decides

    def all(self, state: State | None = None) -> list[Recording]:
        """Every recording, or those in one state, in the order in which they came."""
        rows = self._db.execute("SELECT * FROM recordings ORDER BY number").fetchall()
        return [self._recording(row) for row in rows if state in {None, row["state"]}]

    def get(self, number: int) -> Recording:
        """One recording. Raises UsageError for a number that there is not."""
        row = self._db.execute("SELECT * FROM recordings WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise UsageError(f"there is no recording {number} in the inbox", "see: idiolect inbox")
        return self._recording(row)

    def take(self, number: int, text: str = "") -> Recording:
        """Put a waiting recording and its text (or `text`) into the recordings folder. Raises UsageError, OSError."""
        recording = self._waiting(number)
        meta = recording.meta
        if text.strip():
            meta = (meta or RecordingMeta(text=text)).model_copy(update={"text": text, "format": "txt"})
        if meta is None:
            raise UsageError(
                f"nobody has said yet what is spoken in recording {number}", f"say it: inbox take {number} --text TEXT"
            )
        if problem := meta.problem(recording.duration_s):
            raise UsageError(f"recording {number}: {problem}", "send it in shorter pieces, or refuse it")
        folder = self._recordings / folder_name(recording.device_id, recording.device_label)
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link, and links are not followed", "put a folder in its place")
        path = folder / f"{recording.sha256[:32]}.flac"
        with self._db:  # first: what a crash leaves there is found again
            self._db.execute("UPDATE recordings SET path = ? WHERE number = ?", (str(path), number))
        write_text(path.with_suffix(f".{meta.format}"), meta.text.strip() + "\n", mode=0o600)
        with recording.kept.open("rb") as source, replacing(path, mode=0o600) as target:
            shutil.copyfileobj(source, target)
        self._decide(recording, "taken", path)
        return self.get(number)

    def refuse(self, number: int) -> Recording:
        """Throw a waiting recording away; its device is not asked for it again. Raises UsageError."""
        self._decide(self._waiting(number), "refused")
        return self.get(number)

    def undo(self, device_id: str) -> list[Recording]:
        """Take everything back that came from this device, also what waits, and trust it no longer.

        Gives the recordings as they were before; a file that is no longer where it was put is left to the user.
        """
        self.trust(device_id, trusted=False)
        found = [each for each in self.all() if each.device_id == device_id and each.state != "refused"]
        for recording in found:
            self._decide(recording, "refused")
        return found

    def trust(self, device_id: str, *, trusted: bool) -> None:
        """Whether what this device sends from now on is taken in at once."""
        with self._db:
            self._db.execute("DELETE FROM trusted WHERE device_id = ?", (device_id,))
            if trusted:
                self._db.execute("INSERT INTO trusted VALUES (?)", (device_id,))

    def trusted(self) -> frozenset[str]:
        """The ids of trusted devices."""
        return frozenset(row["device_id"] for row in self._db.execute("SELECT * FROM trusted"))

    # Plumbing

    def _waiting(self, number: int) -> Recording:
        recording = self.get(number)
        if recording.state != "waiting":
            raise UsageError(f"recording {number} was {recording.state} already", "see: idiolect inbox")
        return recording

    def _decide(self, recording: Recording, state: State, path: Path | None = None) -> None:
        if path is None:
            _remove(recording.path)
        with self._db:
            self._db.execute(
                "UPDATE recordings SET state = ?, path = ? WHERE number = ?",
                (state, str(path) if path else None, recording.number),
            )
            if state == "refused":  # nor is what was said remembered
                self._db.execute("UPDATE recordings SET meta = NULL WHERE number = ?", (recording.number,))
        recording.kept.unlink(missing_ok=True)

    def _recording(self, row: Any) -> Recording:  # noqa: ANN401
        fields = dict(row)
        meta, path = fields.pop("meta"), fields.pop("path")
        return Recording(
            **fields | {"kept": self._kept / fields["kept"]},
            meta=RecordingMeta.model_validate_json(meta) if meta else None,
            path=Path(path) if path else None,
        )

    def _remove_leftovers(self) -> None:
        """Whatever a crash has left: uploads that were on their way, files of which nothing is known, and what was put
        among the recordings before that was decided."""
        waiting = self.all("waiting")
        for recording in waiting:
            _remove(recording.path)
        for path in (*self.arriving.iterdir(), *self._kept.iterdir()):
            if path.name not in {recording.kept.name for recording in waiting}:
                path.unlink()


def folder_name(device_id: str, label: str) -> str:
    """The folder of a device's recordings: `from-pixel-8-d-5djco7wu`. Of its label only a-z and 0-9 are used."""
    words = re.findall(r"[a-z0-9]+", label.lower())
    slug = "-".join(words)[:24].strip("-")
    if re.fullmatch(r"d-[a-z2-7]{8}", device_id) is None:
        raise UsageError(f"{device_id!r} is not the id of a device", "see: idiolect devices")
    return "-".join(filter(None, ("from", slug, device_id)))


def describe(recordings: Collection[Recording]) -> list[dict[str, Any]]:
    """As `idiolect inbox --json` prints them."""
    return [
        {
            "number": each.number,
            "state": each.state,
            "device_id": each.device_id,
            "device_label": each.device_label,
            "duration_s": round(each.duration_s, 3),
            "received_s": int(each.received_s),
            "listen": None if each.state == "refused" else str(each.path if each.state == "taken" else each.kept),
            **(each.meta.model_dump(mode="json") if each.meta else {"text": None}),
        }
        for each in recordings
    ]


def _remove(path: Path | None) -> None:
    """A recording that was taken in, its text, and its folder where nothing of the user's own is in it."""
    if path is not None:
        whole = [path.with_suffix(suffix) for suffix in (".flac", ".txt", ".srt", ".vtt")]
        for each in (*whole, *path.parent.glob(f".{path.stem}.*.tmp")):
            each.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Whatever fails in the block because nothing more can be written becomes Full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise Full("the disk is full") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Full("the disk is full") from error
