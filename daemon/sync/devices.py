"""The devices that were let in: what each may do, when it was last here, and the hash of its token."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from idiolect.errors import StoreError, UsageError
from idiolect.wire import Report

READ = "models:read"
RECORD = "recordings:write"
ADMIN = "admin"
SCOPES = (READ, RECORD, ADMIN)
COMPAT_EXPIRES_S = 90 * 86_400

TOKEN_PREFIX = "idl_"  # so that scanners of logs and repositories can tell what leaked

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    id TEXT PRIMARY KEY, label TEXT NOT NULL, platform TEXT NOT NULL, token_sha256 BLOB UNIQUE NOT NULL,
    scopes TEXT NOT NULL, compat INTEGER NOT NULL, created_s INTEGER NOT NULL, last_seen_s INTEGER,
    expires_s INTEGER, revoked_s INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS reports (
    device TEXT NOT NULL, profile TEXT NOT NULL, release TEXT NOT NULL, loaded INTEGER, error TEXT NOT NULL,
    at_s INTEGER NOT NULL, wer REAL, PRIMARY KEY (device, profile)
) STRICT;
"""


@dataclass(frozen=True)
class Device:
    """One device, as handlers find it in `request[DEVICE]`. Times are seconds since 1970, to the minute at best.

    `compat`: its token may travel over plain HTTP, and only reads.
    """

    id: str
    label: str
    platform: str
    scopes: frozenset[str]
    compat: bool
    created_s: int
    last_seen_s: int | None = None
    expires_s: int | None = None
    revoked_s: int | None = None

    def may(self, scope: str) -> bool:
        """Whether its token carries `scope`."""
        return scope in self.scopes

    def is_valid(self, now_s: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)


class Devices:
    """The table in the SQLite file `path` (0600). One process at a time: the one that holds the home's lock."""

    def __init__(self, path: Path) -> None:
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
            if "wer" not in {row[1] for row in self._db.execute("PRAGMA table_info(reports)")}:
                self._db.execute("ALTER TABLE reports ADD COLUMN wer REAL")  # a list of before there was one
            rows = self._db.execute("SELECT token_sha256, * FROM devices ORDER BY rowid").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the list of devices {path} cannot be read: {error}",
                "move it away and pair your devices again",
            ) from error
        self._by_token: dict[bytes, Device] = {row[0]: _device(row[1:]) for row in rows}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def all(self) -> list[Device]:
        """Every device ever let in, oldest first."""
        return list(self._by_token.values())

    def add(self, label: str, platform: str, scopes: frozenset[str], *, compat: bool = False) -> tuple[Device, str]:
        """Let a device in; gives it and its token, which is told only this once. Raises StoreError."""
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        now_s = int(time.time())
        expires_s = now_s + COMPAT_EXPIRES_S if compat else None
        device = Device(_new_id(), one_line(label), one_line(platform), scopes, compat, now_s, None, expires_s)
        digest = _digest(token)
        with self._writing() as db:
            db.execute(
                "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?, NULL)",
                (device.id, device.label, device.platform, digest, " ".join(sorted(scopes)), compat, now_s, expires_s),
            )
        self._by_token[digest] = device
        return device, token

    def by_token(self, token: str) -> Device | None:
        """Whose token this is; None for one that is unknown, revoked or expired, all in the same time."""
        # What is looked up is a digest that a guesser cannot steer, so how long that takes tells nothing.
        device = self._by_token.get(_digest(token))
        return device if device is not None and device.is_valid(time.time()) else None

    def seen(self, device: Device) -> None:
        """Note that it was here, to the minute; on a full disk only until the next start."""
        minute_s = int(time.time()) // 60 * 60
        if device.last_seen_s != minute_s:
            with contextlib.suppress(StoreError):
                self._change(replace(device, last_seen_s=minute_s))

    def note_report(self, device: Device, report: Report) -> None:
        """Keep what it says that it holds, the newest for each profile. Raises StoreError."""
        error = " ".join(report.error.split())
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?, ?, ?, ?)",
                (device.id, report.profile, report.release, report.loaded, error, int(time.time()), report.wer),
            )

    def held(self, device_id: str) -> dict[str, str]:
        """The release that this device said last that it holds, by profile."""
        return dict(self._db.execute("SELECT profile, release FROM reports WHERE device = ?", (device_id,)))

    def describe(self) -> list[dict[str, Any]]:
        """As `idiolect devices --json` prints them: `holds` is what each said last."""
        held: dict[str, list[dict[str, Any]]] = {}
        columns = "device, profile, release, loaded, error, at_s, wer"
        rows = self._db.execute(f"SELECT {columns} FROM reports ORDER BY profile")
        for device, profile, release, loaded, error, at_s, wer in rows:
            said = {"profile": profile, "release": release, "loaded": None if loaded is None else bool(loaded)}
            held.setdefault(device, []).append(said | {"error": error, "at_s": at_s, "wer": wer})
        return [each | {"holds": held.get(each["id"], [])} for each in describe(self.all())]

    def revoke(self, name: str) -> Device:
        """Shut the device with this id, or this label where it is the only one. Raises UsageError for no such one, and
        StoreError where that could not be written: it then is out until the next start only."""
        revoked = replace(self.find(name), revoked_s=int(time.time()))
        self._change(revoked)
        return revoked

    def find(self, name: str) -> Device:
        """The device that is let in with this id, or this label where it is the only one. Raises UsageError."""
        valid = [device for device in self.all() if device.revoked_s is None]
        found = [device for device in valid if device.id == name] or [each for each in valid if each.label == name]
        if len(found) != 1:
            known = ", ".join(f"{device.id} ({device.label})" for device in valid) or "none"
            what = f"more than one device is called {name!r}" if found else f"no device is called {name!r}"
            raise UsageError(what, f"devices that are let in: {known}")
        return found[0]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db:
                yield self._db
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"the list of devices cannot be written: {error}",
                "look at free space and access rights of the home, then do it again",
            ) from error

    def _change(self, device: Device) -> None:
        digest = next(digest for digest, known in self._by_token.items() if known.id == device.id)
        self._by_token[digest] = device  # first: who is shut out stays out also when the disk is full
        with self._writing() as db:
            db.execute(
                "UPDATE devices SET last_seen_s = ?, revoked_s = ? WHERE id = ?",
                (device.last_seen_s, device.revoked_s, device.id),
            )


def describe(devices: Iterable[Device]) -> list[dict[str, Any]]:
    """As `idiolect devices --json` prints them; no token and no hash is among it."""
    return [asdict(device) | {"scopes": sorted(device.scopes)} for device in devices]


def one_line(text: str) -> str:
    """What a device calls itself, as one short printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:40] or "unnamed"


def _device(row: tuple[object, ...]) -> Device:
    id, label, platform, _, scopes, compat, created_s, last_seen_s, expires_s, revoked_s = row
    return Device(
        id=str(id),
        label=str(label),
        platform=str(platform),
        scopes=frozenset(str(scopes).split()),
        compat=bool(compat),
        created_s=_seconds(created_s) or 0,
        last_seen_s=_seconds(last_seen_s),
        expires_s=_seconds(expires_s),
        revoked_s=_seconds(revoked_s),
    )


def _seconds(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _new_id() -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return "d-" + "".join(secrets.choice(alphabet) for _ in range(8))
