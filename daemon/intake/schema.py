"""The library's tables, as steps from one version to the next. A step that was released is never edited."""

from __future__ import annotations

import sqlite3

from idiolect.errors import UsageError

MIGRATIONS = (
    """
    CREATE TABLE files (              -- recordings ever seen, by absolute path; times in Unix seconds
        path TEXT PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        texts TEXT NOT NULL,          -- stamp of the text files that speak for it
        state TEXT NOT NULL CHECK (state IN ('ready', 'waiting', 'rejected')),
        reason TEXT NOT NULL,
        duration_s REAL,
        pcm_sha256 TEXT,              -- of the whole recording, where it was decoded whole
        retry INTEGER NOT NULL,       -- the reason may pass without the file changing
        gone INTEGER NOT NULL DEFAULT 0,
        read_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE clips (              -- sounds ever heard; the side is decided once
        pcm_sha256 TEXT PRIMARY KEY,
        side TEXT NOT NULL CHECK (side IN ('train', 'select', 'held-out'))
    ) STRICT;
    CREATE TABLE file_clips (         -- what the ready files hold now
        path TEXT NOT NULL REFERENCES files (path) ON DELETE CASCADE,
        pcm_sha256 TEXT NOT NULL REFERENCES clips (pcm_sha256),
        start_s REAL NOT NULL,
        end_s REAL,
        duration_s REAL NOT NULL,
        text TEXT NOT NULL,
        text_key TEXT NOT NULL,       -- training.split.text_key of it
        language TEXT,
        PRIMARY KEY (path, start_s, pcm_sha256)
    ) STRICT;
    CREATE INDEX file_clips_by_pcm ON file_clips (pcm_sha256);
    CREATE INDEX file_clips_by_key ON file_clips (text_key);
    CREATE VIEW ready_clips AS        -- every sound once: of copies, the one read last speaks for all
        SELECT path, pcm_sha256, start_s, end_s, duration_s, text, language, side FROM (
            SELECT file_clips.*, clips.side, row_number() OVER (
                PARTITION BY file_clips.pcm_sha256 ORDER BY files.read_at DESC, file_clips.path, file_clips.start_s
            ) AS place
            FROM file_clips JOIN files USING (path) JOIN clips USING (pcm_sha256)
            WHERE files.state = 'ready' AND NOT files.gone
        ) WHERE place = 1;
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        tier TEXT NOT NULL,
        base TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('running', 'interrupted', 'failed', 'kept', 'published')),
        reason TEXT NOT NULL DEFAULT '',
        release_id TEXT,
        created_at REAL NOT NULL,
        finished_at REAL,
        summary TEXT                  -- JSON
    ) STRICT;
    CREATE TABLE run_clips (          -- what each run was given
        run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
        pcm_sha256 TEXT NOT NULL,
        text TEXT NOT NULL,
        side TEXT NOT NULL,
        duration_s REAL NOT NULL,
        PRIMARY KEY (run, pcm_sha256)
    ) STRICT, WITHOUT ROWID;
    """,
    "ALTER TABLE runs ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;  -- how often the daemon died while it ran",
    """
    CREATE TABLE mounts (             -- folders where another file system began that held recordings
        path TEXT PRIMARY KEY
    ) STRICT;
    ALTER TABLE files ADD COLUMN sound TEXT;  -- JSON: what was heard, so that a new text asks for no decoding
    ALTER TABLE file_clips ADD COLUMN fingerprint BLOB;  -- training.fingerprint of the sound
    CREATE INDEX files_by_state ON files (state, gone, read_at);
    """,
    "ALTER TABLE files ADD COLUMN identities TEXT NOT NULL DEFAULT '';  -- of scan.Stamp; unknown where empty",
)


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the database `name` to the newest version, each step whole or not at all. UsageError if it is newer."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UsageError(
            f"{name} was written by a newer idiolect (version {version}; this one knows up to {len(MIGRATIONS)})",
            "update idiolect",
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}\n PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.DatabaseError:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
