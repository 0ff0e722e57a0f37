from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from daemon.sync.devices import READ, RECORD, Devices, describe, one_line
from idiolect.errors import StoreError, UsageError
from idiolect.wire import Report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "devices.sqlite3"


def test_they_are_remembered_and_their_tokens_are_not(path: Path) -> None:
    devices = Devices(path)
    device, token = devices.add("Küche", "android", frozenset({READ, RECORD}))
    assert devices.by_token(token) == device
    assert len(token) == 47
    devices.seen(device)
    devices.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token.encode() not in b"".join(each.read_bytes() for each in path.parent.iterdir())
    again = Devices(path)
    known = again.by_token(token)
    assert known is not None
    assert (known.label, known.scopes, known.created_s) == ("Küche", frozenset({READ, RECORD}), device.created_s)
    assert known.last_seen_s is not None
    assert known.last_seen_s % 60 == 0
    (said,) = describe(again.all())
    assert token not in str(said)
    again.close()


def test_revoking(path: Path) -> None:
    devices = Devices(path)
    first, token = devices.add("phone", "android", frozenset({READ}))
    second, kept = devices.add("phone", "android", frozenset({READ}))
    with pytest.raises(UsageError, match="more than one device is called 'phone'"):
        devices.revoke("phone")
    assert devices.revoke(first.id).revoked_s is not None
    assert devices.by_token(token) is None
    assert devices.revoke("phone").id == second.id
    assert devices.by_token(kept) is None
    with pytest.raises(UsageError, match="no device is called 'phone'"):
        devices.revoke("phone")
    devices.close()
    again = Devices(path)
    assert [device.is_valid(0) for device in again.all()] == [False, False]
    assert again.by_token(token) is None
    again.close()


@pytest.mark.parametrize(
    "label", ['"; touch x #', "a\nb", "$(reboot)", "-rf", "\x1b[2J", "x" * 500, "", "'); DROP TABLE d"]
)
def test_labels_are_only_text(path: Path, label: str) -> None:
    devices = Devices(path)
    device, token = devices.add(label, label, frozenset({READ}))
    assert device.label == one_line(label)
    assert device.label.isprintable()
    assert 0 < len(device.label) <= 40
    assert devices.by_token(token) == device
    devices.close()


def test_a_damaged_list_is_said(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        Devices(path)


def test_odd_tokens_are_unknown(path: Path) -> None:
    devices = Devices(path)
    for token in ("", "\0", "\ud800", "x" * 100_000):
        assert devices.by_token(token) is None
    devices.close()
    with pytest.raises(sqlite3.ProgrammingError):
        devices.add("late", "android", frozenset())


def test_who_is_shut_out_stays_out_where_nothing_can_be_written(path: Path) -> None:
    devices = Devices(path)
    device, token = devices.add("phone", "android", frozenset({READ}))
    devices._db.execute("PRAGMA query_only = ON")  # as on a disk that is full or has become read-only
    devices.seen(device)
    for change in (
        lambda: devices.revoke("phone"),
        lambda: devices.add("other", "android", frozenset({READ})),
        lambda: devices.note_report(device, Report(release="r-0001", profile="android-futo")),
    ):
        with pytest.raises(StoreError, match="cannot be written"):
            change()
    assert devices.by_token(token) is None
    assert len(devices.all()) == 1
    devices.close()
