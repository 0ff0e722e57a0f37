import os
from pathlib import Path

import pytest

from daemon.intake.scan import Settling, Stamp, is_usable_name, scan


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_recordings_at_any_depth_without_what_sync_tools_leave(tmp_path: Path) -> None:
    there = {touch(tmp_path / name) for name in ("a.wav", "b c/d.opus", "b c/é/🎤.flac")}
    for name in (".a.wav.tmp", ".stversions/a.wav", "a.sync-conflict-20240101-120000-ABCDEFG.wav", "notes.txt"):
        touch(tmp_path / name)

    assert set(scan(tmp_path).recordings) == {str(path) for path in there}


@pytest.mark.parametrize("text", ["sub/a.txt", "sub/a.srt", "sub/a.VTT", "sub/metadata.csv", "metadata.jsonl"])
def test_a_text_that_comes_or_changes_changes_the_stamp(tmp_path: Path, text: str) -> None:
    audio = str(touch(tmp_path / "sub" / "a.wav"))
    other = str(touch(tmp_path / "other" / "b.wav"))
    before = scan(tmp_path).recordings

    touch(tmp_path / text)
    came = scan(tmp_path).recordings
    touch(tmp_path / text, "other words")
    changed = scan(tmp_path).recordings

    assert len({stamps[audio] for stamps in (before, came, changed)}) == 3
    assert before[audio].same_audio(changed[audio])
    assert (before[other] == changed[other]) == text.startswith("sub/")


@pytest.mark.parametrize(
    ("now", "differs", "same_audio"),
    [
        ("1:10 2:20", False, True),
        ("9:10 8:20", False, True),  # a disk that numbers its files anew
        ("1:99 2:99", False, True),  # chmod, a hard link
        ("9:99 2:20", True, False),
        ("1:10 9:99", True, True),
        ("", False, True),
    ],
)
def test_another_file_of_one_size_and_time(now: str, differs: bool, same_audio: bool) -> None:
    known, stamp = Stamp(1, 1, "t", "1:10 2:20"), Stamp(1, 1, "t", now)
    assert (stamp.differs(known), stamp.same_audio(known)) == (differs, same_audio)
    assert not known.differs(Stamp(1, 1, "t"))  # of a library that did not know yet


def test_links_are_listed_and_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "outside" / "a.wav")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "loop.wav").symlink_to(inside)
    (inside / "gone.wav").symlink_to(tmp_path / "nothing")
    (inside / "text").symlink_to(touch(tmp_path / "outside" / "t"))

    assert set(scan(inside).recordings) == {str(inside / name) for name in ("folder", "loop.wav", "gone.wav")}


def test_a_folder_with_an_audio_name_is_listed_and_looked_into(tmp_path: Path) -> None:
    inner = touch(tmp_path / "day.wav" / "a.wav")

    assert set(scan(tmp_path).recordings) == {str(inner), str(inner.parent)}


def test_a_missing_folder_hides_what_was_in_it(tmp_path: Path) -> None:
    listing = scan(tmp_path / "usb")

    assert listing.recordings == {}
    assert listing.unreadable == {str(tmp_path / "usb"): "No such file or directory"}
    assert listing.hides(str(tmp_path / "usb" / "a.wav"))
    assert not listing.hides(str(tmp_path / "usb2" / "a.wav"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_closed_folder_hides_only_what_is_in_it(tmp_path: Path) -> None:
    closed = touch(tmp_path / "closed" / "a.wav").parent
    touch(tmp_path / "b.wav")
    closed.chmod(0)
    try:
        listing = scan(tmp_path)
    finally:
        closed.chmod(0o700)

    assert set(listing.recordings) == {str(tmp_path / "b.wav")}
    assert listing.hides(str(closed / "a.wav"))


def test_names_of_other_encodings(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.wav", os.O_CREAT, 0o600))

    (path,) = scan(tmp_path).recordings
    assert not is_usable_name(path)
    assert is_usable_name("/שלום 🎤\n.wav")


def test_settled_is_what_stood_still_long_enough() -> None:
    settling = Settling(2.0)
    small, large = Stamp(1, 1, ""), Stamp(2, 2, "")

    assert settling.settled({"b": small, "a": small}, 10.0) == []
    assert settling.settled({"b": large, "a": small}, 11.0) == []
    assert settling.due_s == 12.0
    assert settling.settled({"b": large, "a": small}, 12.0) == ["a"]
    assert settling.due_s == 13.0
    assert settling.settled({"b": large}, 12.9) == []
    assert settling.settled({"b": large, "a": small}, 13.0) == ["b"]
    assert Settling(0.0).settled({"a": small}, 1.0) == ["a"]
