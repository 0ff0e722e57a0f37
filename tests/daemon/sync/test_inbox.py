"""The inbox itself: what becomes a file and where, what is undone, what a crash leaves."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.sync.devices import Device
from daemon.sync.inbox import Inbox, Recording, Transcoded, describe, folder_name
from idiolect.errors import StoreError, UsageError
from idiolect.sending import RecordingMeta
from tests.daemon.sync.post import ROOMY, files
from tests.idiolect.steps import killed_at_step
from tests.training.samples import sound, write_encoded
from training.audio import pcm_sha256

PHONE = Device("d-aaaa2222", "My Phone", "android", frozenset(), False, 0)
TABLET = Device("d-bbbb3333", "tablet", "android", frozenset(), False, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


@pytest.fixture
def inbox(tmp_path: Path, folder: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "inbox", folder, ROOMY)
    yield inbox
    inbox.close()


def arrive(
    inbox: Inbox, device: Device = PHONE, seed: int = 0, text: str = "call mum", seconds: float = 1.0
) -> Recording:
    """A recording as the child leaves it, with its text where there is one."""
    pcm = sound(seconds, seed=seed)
    made = write_encoded(inbox.arriving / "made.flac", pcm, "flac")
    recording = inbox.add(device, hashlib.sha256(b"%d" % seed).hexdigest(), Transcoded(made, seconds, pcm_sha256(pcm)))
    return inbox.describe(recording, RecordingMeta(text=text)) if text else recording


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("phone", "from-phone-d-aaaa2222"),
        ("Pixel 8 (Ännä)", "from-pixel-8-nn-d-aaaa2222"),
        ("../../etc/passwd", "from-etc-passwd-d-aaaa2222"),
        ("..", "from-d-aaaa2222"),
        ("/", "from-d-aaaa2222"),
        (".ssh", "from-ssh-d-aaaa2222"),
        ("a\0b\n$(touch x)`-rf", "from-a-b-touch-x-rf-d-aaaa2222"),
        ("CON", "from-con-d-aaaa2222"),
        ("x" * 200, f"from-{'x' * 24}-d-aaaa2222"),
        ("電話", "from-d-aaaa2222"),
    ],
)
def test_labels_never_become_paths_unchecked(label: str, name: str) -> None:
    assert folder_name("d-aaaa2222", label) == name


@pytest.mark.parametrize("device_id", ["", "..", "d-../../x", "d-aaaa2222/..", "d-aaaa2222\n", "D-AAAA2222"])
def test_nor_do_ids(device_id: str) -> None:
    with pytest.raises(UsageError):
        folder_name(device_id, "phone")


def test_a_link_in_the_place_of_a_devices_folder_is_not_followed(inbox: Inbox, folder: Path, tmp_path: Path) -> None:
    arrive(inbox)
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / folder_name(PHONE.id, PHONE.label)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        inbox.take(1)
    assert files(tmp_path / "elsewhere") == []
    assert inbox.get(1).state == "waiting"


def test_taking_in_twice_or_what_has_no_text(inbox: Inbox) -> None:
    arrive(inbox, text="")
    with pytest.raises(UsageError, match="--text"):
        inbox.take(1)
    inbox.take(1, text="something")
    for act in (inbox.take, inbox.refuse):
        with pytest.raises(UsageError, match="already"):
            act(1)
        with pytest.raises(UsageError, match="no recording 7"):
            act(7)


def test_a_trusted_device_is_not_asked_about(inbox: Inbox, folder: Path) -> None:
    arrive(inbox, seed=1)
    inbox.trust(PHONE.id, trusted=True)
    assert arrive(inbox, seed=2).state == "taken"
    assert arrive(inbox, TABLET, seed=3).state == "waiting"
    without = arrive(inbox, seed=4, text="")
    assert without.state == "waiting"
    assert inbox.describe(without, RecordingMeta(text="its text came later")).state == "taken"
    inbox.trust(PHONE.id, trusted=False)
    assert arrive(inbox, seed=5).state == "waiting"
    assert inbox.get(1).state == "waiting"  # came before
    assert len([name for name in files(folder) if name.endswith(".flac")]) == 2


def test_undoing_a_device_takes_its_files_and_leaves_all_others(inbox: Inbox, folder: Path) -> None:
    for seed in range(4):
        arrive(inbox, seed=seed)
        arrive(inbox, TABLET, seed=seed + 10)
    for number in (1, 2, 3, 5):
        inbox.take(number)
    inbox.trust(PHONE.id, trusted=True)
    path = inbox.get(1).path
    assert path is not None
    path.with_suffix(".txt").write_text("edited by the user")
    (path.parent / "note.txt").write_text("the user's own")
    before = inbox.undo(PHONE.id)
    assert [each.state for each in before] == ["taken", "taken", "taken", "waiting"] or len(before) == 4
    assert files(folder / folder_name(PHONE.id, PHONE.label)) == ["note.txt"]
    assert len(files(folder / folder_name(TABLET.id, TABLET.label))) == 2
    assert PHONE.id not in inbox.trusted()
    assert {each.state for each in inbox.all() if each.device_id == PHONE.id} == {"refused"}
    assert inbox.undo(PHONE.id) == []
    inbox.undo(TABLET.id)
    assert files(folder) == [f"{folder_name(PHONE.id, PHONE.label)}/note.txt"]


def test_what_a_crash_leaves_is_removed_and_what_was_answered_for_is_not(
    inbox: Inbox, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(inbox, seed=1)
    arrive(inbox, seed=2)
    (inbox.arriving / "half").write_bytes(b"x")
    (tmp_path / "inbox" / "kept" / "unknown.flac").write_bytes(b"x")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "_decide", crash)  # its files are placed, and that is not yet noted
        with pytest.raises(KeyboardInterrupt):
            inbox.take(1)
    inbox.close()
    again = Inbox(tmp_path / "inbox", folder, ROOMY)
    assert len(files(tmp_path / "inbox")) == 2
    assert [each.state for each in again.all()] == ["waiting", "waiting"]
    assert again.take(1).state == "taken"
    assert len(files(folder)) == 2
    again.close()


def test_it_is_private_and_damage_is_told(inbox: Inbox, tmp_path: Path, folder: Path) -> None:
    arrive(inbox)
    root = tmp_path / "inbox"
    assert root.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in root.glob("inbox.sqlite3*"))
    inbox.close()
    for path in root.glob("inbox.sqlite3-*"):
        path.unlink()
    (root / "inbox.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="move it away"):
        Inbox(root, folder)


def test_what_is_listed(inbox: Inbox) -> None:
    recording = arrive(inbox)
    (listed,) = describe([recording])
    assert (listed["number"], listed["device_label"], listed["text"], listed["state"]) == (
        1,
        "My Phone",
        "call mum",
        "waiting",
    )
    assert os.path.exists(listed["listen"])  # noqa: PTH110
    assert describe([inbox.refuse(1)])[0]["listen"] is None
    assert not recording.kept.exists()


def test_a_number_is_never_given_twice(inbox: Inbox) -> None:
    """The user may have an old list before him."""
    arrive(inbox, seed=1)
    with sqlite3.connect(inbox.arriving.parent / "inbox.sqlite3") as db:
        db.execute("DELETE FROM recordings")
    db.close()
    assert arrive(inbox, seed=2).number == 2


@pytest.mark.slow
def test_killed_at_any_step_of_taking_in(tmp_path: Path) -> None:
    """It can be refused, or undone, as if nothing had happened: nothing of it stays among the recordings."""
    states: list[str] = []
    killed = True
    while killed:
        root = tmp_path / str(len(states))
        inbox = Inbox(root / "inbox", root / "recordings", ROOMY)
        arrive(inbox)
        inbox.close()
        killed = killed_at_step(len(states), root, lambda root=root: _take_first(root))  # type: ignore[misc]
        again = Inbox(root / "inbox", root / "recordings", ROOMY)
        states.append(again.get(1).state)
        if states[-1] == "waiting":
            assert files(root / "recordings") == []
            again.refuse(1)
        again.undo(PHONE.id)
        assert files(root) == ["inbox/inbox.sqlite3"] or files(root / "recordings") == []
        again.close()
    assert states.count("waiting") > 5
    assert states[-1] == "taken"


def _take_first(root: Path) -> None:
    Inbox(root / "inbox", root / "recordings", ROOMY).take(1)
