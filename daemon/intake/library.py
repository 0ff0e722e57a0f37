"""What idiolect knows of recordings and runs: SQLite, one process and one thread at a time."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from daemon.intake.reading import ReadClip, Reading, Sound
from daemon.intake.scan import Stamp
from daemon.intake.schema import migrate
from daemon.work.spec import JobClip
from idiolect.errors import UsageError
from training import split
from training.fingerprint import SAME_BITS, TAKE, difference, nearly_the_same, take_named

RecordingState = Literal["ready", "waiting", "rejected", "duplicate"]
_COMPARED_TAKES = 20
_FORGOTTEN_S = 90 * 86_400.0
T = TypeVar("T")
RunState = Literal["running", "interrupted", "failed", "kept", "published"]


@dataclass(frozen=True)
class RecordingCounts:
    """Recordings by state. `ready_s` and `clips` count every sound once; `duplicate` are copies of ready ones."""

    ready: int
    waiting: int
    rejected: int
    ready_s: float
    clips: int
    duplicate: int = 0


@dataclass(frozen=True)
class Recording:
    """One recording; `reason` tells why it is not ready, or what of it was left out."""

    path: Path
    state: RecordingState
    reason: str
    duration_s: float | None


@dataclass(frozen=True)
class NewSpeech:
    """Ready clips a tier's newest useful run did not have, and how much audio (train and select) that run had."""

    clips: int
    duration_s: float
    trained_s: float


@dataclass(frozen=True)
class Run:
    """One pass of the job for one tier; times in UTC."""

    id: str
    tier: str
    base: str
    state: RunState
    reason: str
    release_id: str | None
    created: datetime
    finished: datetime | None
    summary: dict[str, Any] | None
    crashes: int = 0
    """How often the daemon died while it ran."""


@dataclass(frozen=True)
class Known:
    """What the library remembers of a recording's last reading."""

    stamp: Stamp
    gone: bool
    retry: bool


class Library:
    """The database file `db`, made private when it is new. Raises UsageError where it cannot be used."""

    def __init__(self, db: Path) -> None:
        db.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(db, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(db, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._counted: dict[str, tuple[int, Any]] = {}
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute("PRAGMA synchronous = NORMAL")
            migrate(self._db, str(db))
        except sqlite3.DatabaseError as error:
            self._db.close()
            hint = "move it away; recordings are read again, the list of runs is lost"
            if isinstance(error, sqlite3.OperationalError):  # the file itself may be whole
                hint = "is the disk full, or read-only? make room, and start again"
            raise UsageError(f"{db} cannot be used: {error}", hint) from error
        except UsageError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def counts(self) -> RecordingCounts:
        """How many recordings there are, and how much speech is ready."""
        return self._while_unchanged("counts", self._counts)

    def recordings(self, state: RecordingState | None = None) -> list[Recording]:
        """All recordings that are there, or those in one state, in the order of paths.

        "duplicate" is a recording whose every sound another one also holds.
        """
        stored = "ready" if state == "duplicate" else state
        rows = self._db.execute(
            "SELECT path, state, reason, duration_s FROM files WHERE NOT gone AND state = ifnull(?, state)"
            " ORDER BY path",
            (stored,),
        ).fetchall()
        speaker = (
            dict(self._db.execute("SELECT pcm_sha256, path FROM ready_clips")) if stored in {None, "ready"} else {}
        )
        speaking = set(speaker.values())
        found = []
        for row in rows:
            kind, reason = row["state"], row["reason"]
            if kind == "ready" and row["path"] not in speaking:
                first = self._one("SELECT pcm_sha256 FROM file_clips WHERE path = ?", row["path"])
                kind, reason = "duplicate", f"the same sound as {speaker[first['pcm_sha256']]}, counted once"
            if state in {None, kind}:
                found.append(Recording(Path(row["path"]), kind, reason, row["duration_s"]))
        return found

    def remarked(self) -> list[Recording]:
        """Ready recordings of which there is something to say, in the order of paths."""
        rows = self._db.execute(
            "SELECT path, reason, duration_s FROM files WHERE state = 'ready' AND reason != '' AND NOT gone"
            " ORDER BY path"
        )
        return [Recording(Path(row["path"]), "ready", row["reason"], row["duration_s"]) for row in rows]

    def ready_clips(self, language: str = "en") -> tuple[JobClip, ...]:
        """What a run may use now, every sound once; `language` for clips that name none."""
        rows = self._db.execute("SELECT * FROM ready_clips ORDER BY path, start_s")
        return tuple(JobClip(**{**row, "language": row["language"] or language}) for row in map(dict, rows))

    def last_arrival(self) -> float | None:
        """When, in Unix seconds, the newest ready recording or edited text was read."""
        found: float | None = self._one("SELECT max(read_at) AS at FROM files WHERE state = 'ready' AND NOT gone")["at"]
        return found

    def known(self) -> dict[str, Known]:
        """Every recording ever read, by absolute path."""
        return {
            row["path"]: Known(
                Stamp(row["size_bytes"], row["mtime_ns"], row["texts"], row["identities"]),
                bool(row["gone"]),
                bool(row["retry"]),
            )
            for row in self._db.execute("SELECT path, size_bytes, mtime_ns, texts, identities, gone, retry FROM files")
        }

    def sound(self, path: str) -> Sound | None:
        """What was heard of a recording when it was last read; None where it was not decoded whole."""
        row = self._db.execute("SELECT sound FROM files WHERE path = ?", (path,)).fetchone()
        return Sound.model_validate_json(row["sound"]) if row is not None and row["sound"] else None

    def record(self, path: str, stamp: Stamp, reading: Reading) -> None:
        """Remember what was read from a recording as it stood at `stamp`. A new sound is given its side here."""
        values = {
            **vars(stamp),
            **reading.model_dump(exclude={"clips", "sound", "reason", "again_s"}),
            "reason": "; ".join(filter(None, (reading.reason, self._nearly_the_same(path, reading.clips)))),
            "pcm_sha256": reading.sound and reading.sound.pcm_sha256,
            "sound": reading.sound and reading.sound.model_dump_json(),
            "path": path,
            "read_at": time.time(),
        }
        with self._transaction():
            self._db.execute("DELETE FROM files WHERE path = ?", (path,))  # and with it what it held
            self._db.execute(
                "INSERT INTO files (path, size_bytes, mtime_ns, texts, identities, state, reason, duration_s, "
                "pcm_sha256, sound, retry, read_at) VALUES (:path, :size_bytes, :mtime_ns, :texts, :identities, "
                ":state, :reason, :duration_s, :pcm_sha256, :sound, :retry, :read_at)",
                values,
            )
            for clip in reading.clips:
                self._record_clip(path, clip)

    def identify(self, stamps: Mapping[str, Stamp]) -> None:
        """These recordings, unchanged, are known by their stamps from now on: their disk was mounted anew, say."""
        if not stamps:
            return
        values = [(stamp.identities, path) for path, stamp in stamps.items()]
        with self._transaction():
            self._db.executemany("UPDATE files SET identities = ? WHERE path = ?", values)

    def set_gone(self, paths: Sequence[str], gone: bool) -> None:
        """Recordings that left the folder, or came back unchanged. Their sounds keep their sides."""
        with self._transaction():
            self._db.executemany("UPDATE files SET gone = ? WHERE path = ?", [(gone, path) for path in paths])
            if gone and paths:
                self._forget_takes(frozenset(paths))

    def forget_gone(self) -> None:
        """Recordings that left long ago are read anew should they come back; their sounds keep their sides."""
        with self._transaction():
            self._db.execute("DELETE FROM files WHERE gone AND read_at < ?", (time.time() - _FORGOTTEN_S,))

    def remark(self, pcm_sha256: str, told: str) -> None:
        """Something a person should know of the ready recordings that hold a sound; said once however often heard."""
        with self._transaction():
            self._db.execute(
                "UPDATE files SET reason = reason || iif(reason = '', '', '; ') || :told WHERE state = 'ready' "
                "AND instr(reason, :told) = 0 AND path IN (SELECT path FROM file_clips WHERE pcm_sha256 = :pcm)",
                {"told": told, "pcm": pcm_sha256},
            )

    def mounts(self) -> set[str]:
        """Folders where another file system began when recordings were last seen there."""
        return {row["path"] for row in self._db.execute("SELECT path FROM mounts")}

    def set_mounts(self, paths: Iterable[str]) -> None:
        """Remember these folders instead of those before."""
        with self._transaction():
            self._db.execute("DELETE FROM mounts")
            self._db.executemany("INSERT INTO mounts VALUES (?)", [(path,) for path in paths])

    def new_since(self, tier: str) -> NewSpeech:
        """Ready clips, by sound and text, that the tier's newest published or kept run did not have."""
        return self._while_unchanged(f"new since {tier}", lambda: self._new_since(tier))

    def create_run(self, tier: str, base: str, clips: Sequence[JobClip]) -> str:
        """A new run in state "running" over `clips`; its id, as in "run-0001"."""
        with self._transaction(durable=True):
            cursor = self._db.execute(
                "INSERT INTO runs (tier, base, state, created_at) VALUES (?, ?, 'running', ?)",
                (tier, base, time.time()),
            )
            number = cursor.lastrowid
            self._db.executemany(
                "INSERT OR REPLACE INTO run_clips VALUES (?, ?, ?, ?, ?)",
                [(number, clip.pcm_sha256, clip.text, clip.side, clip.duration_s) for clip in clips],
            )
        return f"run-{number:04d}"

    def not_in_run(self, run_id: str, sounds: Sequence[str]) -> None:
        """These sounds, by digest, could not be had when the run began: they are new to its tier. UsageError."""
        number = self._number(run_id)
        with self._transaction():
            self._db.executemany(
                "DELETE FROM run_clips WHERE run = ? AND pcm_sha256 = ?", [(number, digest) for digest in sounds]
            )

    def update_run(
        self,
        run_id: str,
        *,
        state: RunState | None = None,
        reason: str | None = None,
        release_id: str | None = None,
        summary: dict[str, Any] | None = None,
        crashes: int | None = None,
    ) -> None:
        """Change what is given of a run. "failed", "kept" and "published" finish it. UsageError for an unknown id."""
        number = self._number(run_id)
        changes: dict[str, Any] = {"reason": reason, "release_id": release_id, "state": state, "crashes": crashes}
        changes = {name: value for name, value in changes.items() if value is not None}
        if state is not None:
            changes["finished_at"] = None if state in {"running", "interrupted"} else time.time()
        if summary is not None:
            changes["summary"] = json.dumps(summary, ensure_ascii=False)
        with self._transaction(durable=True):
            for name, value in changes.items():
                self._db.execute(f"UPDATE runs SET {name} = ? WHERE number = ?", (value, number))

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        return [_run(row) for row in self._db.execute("SELECT * FROM runs ORDER BY number DESC")]

    def run(self, run_id: str) -> Run:
        """One run. UsageError for an unknown id."""
        return _run(self._one("SELECT * FROM runs WHERE number = ?", self._number(run_id)))

    def trained_on(self, run_id: str) -> frozenset[str]:
        """Digests of the sounds a run learned from or chose its checkpoint by. UsageError for an unknown id."""
        rows = self._db.execute(
            "SELECT pcm_sha256 FROM run_clips WHERE run = ? AND side != 'held-out'", (self._number(run_id),)
        )
        return frozenset(row["pcm_sha256"] for row in rows)

    def _counts(self) -> RecordingCounts:
        query = "SELECT state, count(*) AS count FROM files WHERE NOT gone GROUP BY state"
        of = {row["state"]: row["count"] for row in self._db.execute(query)}
        row = self._one(
            "SELECT count(*) AS clips, total(duration_s) AS ready_s, count(DISTINCT path) AS ready FROM ready_clips"
        )
        return RecordingCounts(
            ready=row["ready"],
            waiting=of.get("waiting", 0),
            rejected=of.get("rejected", 0),
            ready_s=row["ready_s"],
            clips=row["clips"],
            duplicate=of.get("ready", 0) - row["ready"],
        )

    def _new_since(self, tier: str) -> NewSpeech:
        run = self._one(
            "SELECT max(number) AS number FROM runs WHERE tier = ? AND state IN ('published', 'kept')", tier
        )["number"]
        new = self._one(
            "SELECT count(*) AS clips, total(duration_s) AS duration_s FROM ready_clips WHERE NOT EXISTS ("
            "SELECT 1 FROM run_clips AS had WHERE had.run = ? AND had.pcm_sha256 = ready_clips.pcm_sha256"
            " AND had.text = ready_clips.text)",
            run,
        )
        trained = self._one(
            "SELECT total(duration_s) AS duration_s FROM run_clips WHERE run = ? AND side != 'held-out'", run
        )
        return NewSpeech(new["clips"], new["duration_s"], trained["duration_s"])

    def _nearly_the_same(self, path: str, clips: Sequence[ReadClip]) -> str:
        """Which other recording holds the same take of a sentence in other samples: another format, louder, trimmed."""
        for clip in clips:
            mine = bytes.fromhex(clip.fingerprint)
            others = self._db.execute(
                "SELECT path, fingerprint FROM file_clips JOIN files USING (path) WHERE text_key = ? AND path != ? "
                "AND file_clips.pcm_sha256 != ? AND fingerprint IS NOT NULL AND NOT gone ORDER BY path LIMIT ?",
                (split.text_key(clip.text), path, clip.pcm_sha256, _COMPARED_TAKES),
            )
            for other in others:
                if (differing := difference(mine, other["fingerprint"])) < SAME_BITS:
                    return nearly_the_same(other["path"], differing)
        return ""

    def _forget_takes(self, gone: frozenset[str]) -> None:
        """Whoever was told to keep one of two takes has done so."""
        for row in self._db.execute("SELECT path, reason FROM files WHERE instr(reason, ?)", (TAKE,)).fetchall():
            left = [told for told in row["reason"].split("; ") if take_named(told) not in gone]
            self._db.execute("UPDATE files SET reason = ? WHERE path = ?", ("; ".join(left), row["path"]))

    def _record_clip(self, path: str, clip: ReadClip) -> None:
        key = split.text_key(clip.text)
        self._decide_side(clip, key)
        self._db.execute(
            "INSERT OR IGNORE INTO file_clips VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                path,
                clip.pcm_sha256,
                clip.start_s,
                clip.end_s,
                clip.duration_s,
                clip.text,
                key,
                clip.language,
                bytes.fromhex(clip.fingerprint),
            ),
        )

    def _decide_side(self, clip: ReadClip, key: str) -> None:
        """Once, for a new sound: as its folder says, else as another take of the sentence, else by hash.

        The other take matters where an edit made the sentence: its sound kept the side of the text it had before.
        """
        known = self._db.execute("SELECT side FROM clips WHERE pcm_sha256 = ?", (clip.pcm_sha256,)).fetchone()
        if known is not None and (clip.side is None or (clip.side == "held-out") == (known["side"] == "held-out")):
            return
        take = None
        if clip.side is None:
            take = self._db.execute(
                "SELECT side FROM file_clips JOIN clips USING (pcm_sha256) WHERE text_key = ?", (key,)
            ).fetchone()
        side = take["side"] if take is not None else split.side(clip.text, clip.side)
        self._db.execute(
            "INSERT INTO clips VALUES (?, ?) ON CONFLICT DO UPDATE SET side = excluded.side", (clip.pcm_sha256, side)
        )

    def _while_unchanged(self, name: str, count: Callable[[], T]) -> T:
        """`count()`, asked again only after a change: over 10,000 recordings it takes 50 ms, and status asks often."""
        changes, found = self._counted.get(name, (-1, None))
        if changes != self._db.total_changes:
            changes, found = self._db.total_changes, count()
            self._counted[name] = changes, found
        return cast("T", found)

    def _number(self, run_id: str) -> int:
        digits = run_id.removeprefix("run-")
        if digits.isdecimal() and self._db.execute("SELECT 1 FROM runs WHERE number = ?", (int(digits),)).fetchone():
            return int(digits)
        raise UsageError(f"there is no run {run_id!r}", "see: idiolect runs")

    def _one(self, query: str, *values: Any) -> sqlite3.Row:  # noqa: ANN401
        row: sqlite3.Row = self._db.execute(query, values).fetchone()
        return row

    @contextlib.contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[None]:
        """All or nothing. Only a `durable` one waits for the disk: after a power cut recordings are read again."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has already rolled back
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _run(row: sqlite3.Row) -> Run:
    return Run(
        id=f"run-{row['number']:04d}",
        tier=row["tier"],
        base=row["base"],
        state=row["state"],
        reason=row["reason"],
        release_id=row["release_id"],
        created=datetime.fromtimestamp(row["created_at"], UTC),
        finished=None if row["finished_at"] is None else datetime.fromtimestamp(row["finished_at"], UTC),
        summary=None if row["summary"] is None else json.loads(row["summary"]),
        crashes=row["crashes"],
    )
