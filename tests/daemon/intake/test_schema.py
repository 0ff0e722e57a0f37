"""A library of every earlier version becomes one of today, and what was in it stays."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from daemon.intake.intake import Intake
from daemon.intake.library import Library
from daemon.intake.reader import Reader
from daemon.intake.scan import scan
from daemon.intake.schema import MIGRATIONS

FIRST = """
    INSERT INTO files (path, size_bytes, mtime_ns, texts, state, reason, duration_s, pcm_sha256, retry, gone, read_at)
        VALUES ('/r/a.wav', 9, 9, 's', 'ready', '', 2.0, 'aa', 0, 0, 5.0);
    INSERT INTO clips VALUES ('aa', 'held-out');
    INSERT INTO file_clips (path, pcm_sha256, start_s, end_s, duration_s, text, text_key, language)
        VALUES ('/r/a.wav', 'aa', 0, NULL, 2.0, 'a b', 'a b', NULL);
    INSERT INTO runs (number, tier, base, state, reason, release_id, created_at, finished_at, summary)
        VALUES (3, 'tiny', 'tiny', 'published', '', 'r-0001', 1.0, 2.0, '{"wer_stock": 0.5}');
    INSERT INTO run_clips VALUES (3, 'aa', 'a b', 'held-out', 2.0);
"""
"""What the tables of version 1 could hold; every later version can, too."""


def old(db: Path, version: int) -> None:
    """A library as version `version` left it."""
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        for script in MIGRATIONS[:version]:
            connection.executescript(script)
        if version:
            connection.executescript(FIRST)
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_no_recording_is_read_again_because_of_a_step(tmp_path: Path, version: int) -> None:
    folder, db = tmp_path / "recordings", tmp_path / "library.sqlite3"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"not even audio")
    (folder / "a.txt").write_text("a b")
    ((path, stamp),) = scan(folder).recordings.items()
    old(db, version)
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        values = (path, stamp.size_bytes, stamp.mtime_ns, f"{stamp.texts}en")
        connection.execute("UPDATE files SET path = ?, size_bytes = ?, mtime_ns = ?, texts = ?", values)
        connection.execute("UPDATE file_clips SET path = ?", values[:1])
        connection.commit()
    library = Library(db)
    intake = Intake(library, [folder], 0.0, 3600, reader=Reader((sys.executable, "-c", "exit(1)")))
    await intake.rescan()
    assert intake.warnings == ()
    assert library.counts().ready == 1
    assert library.known()[path].stamp.identities == stamp.identities
    library.close()


def tables(db: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table and view with its columns."""
    with closing(sqlite3.connect(db)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")]
        return {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_earlier_version_becomes_todays(tmp_path: Path, version: int) -> None:
    fresh, db = tmp_path / "fresh.sqlite3", tmp_path / "library.sqlite3"
    Library(fresh).close()
    old(db, version)
    library = Library(db)
    if version:
        (recording,) = library.recordings()
        assert (str(recording.path), recording.state, recording.duration_s) == ("/r/a.wav", "ready", 2.0)
        (clip,) = library.ready_clips()
        assert (clip.text, clip.side) == ("a b", "held-out")
        run = library.run("run-0003")
        assert (run.state, run.release_id, run.summary, run.crashes) == ("published", "r-0001", {"wer_stock": 0.5}, 0)
        assert library.new_since("tiny").clips == 0
    library.close()
    assert tables(db) == tables(fresh)
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
