from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect import files
from idiolect.errors import UsageError
from tests.idiolect.steps import acting_at_step, killed_at_step


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"ü": [1]}, mode=0o600)
    assert json.loads(path.read_text("utf-8")) == {"ü": [1]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files.write_text(path, "ü")
    assert path.read_bytes() == "ü".encode()
    files.write_bytes(path, b"")
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    files.write_text(path, "1")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")

    def interrupted() -> None:
        with files.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_at_any_step_of_a_write(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    outcomes = []
    for step in range(4):
        path = tmp_path / str(step)
        files.write_text(path, "old")
        try:
            with acting_at_step(step, tmp_path, fail):
                files.write_text(path, "new")
            outcomes.append("written")
        except OSError:
            outcomes.append("refused")
        assert path.read_text() == {"refused": "old", "written": "new"}[outcomes[-1]]
    # Opening and renaming; the folder's fsync may fail where folders cannot be opened.
    assert outcomes == ["refused", "refused", "written", "written"]
    assert len(list(tmp_path.iterdir())) == 4


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    step, killed, seen = 0, True, []
    while killed:
        files.write_text(path, "old")
        killed = killed_at_step(step, tmp_path, lambda: files.write_text(path, "new"))
        seen.append(path.read_text())
        step += 1
    assert seen == ["old", "old", "new", "new"]


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with files.replacing_folder(path) as new:
        (new / "a").mkdir()
        (new / "a" / "b").write_text("1")
        assert not path.exists()
    assert (path / "a" / "b").read_text() == "1"
    with files.replacing_folder(path) as new:
        (new / "c").write_text("2")
    assert [entry.name for entry in path.iterdir()] == ["c"]

    def failing() -> None:
        with files.replacing_folder(path) as new:
            (new / "d").write_text("3")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing()
    assert [entry.name for entry in path.iterdir()] == ["c"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_takes_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("a file")
    with files.replacing_folder(path) as new:
        (new / "a").write_text("1")
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_what_stood_there_comes_back_when_the_new_folder_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "model", Path.rename
    path.write_text("old")

    def no_more(source: Path, target: Path) -> Path:
        if source.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", no_more)
    with pytest.raises(OSError, match="No space left"), files.replacing_folder(path):
        pass
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("size_bytes", [0, 1, files.CHUNK_BYTES, files.CHUNK_BYTES + 1])
def test_sha256(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * size_bytes)
    assert files.sha256_file(path) == hashlib.sha256(b"x" * size_bytes).hexdigest()


@pytest.mark.parametrize("path", ["a", "idiolect-tiny-q4_0.bin", "a/b/c/d/e/f/g", "a" * 80, ".hidden", "..a", "a..b"])
def test_safe_paths(path: str) -> None:
    assert files.safe_join(Path("/x"), path) == Path("/x") / path


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../a", "a/..", "a/../b", "a/./b", "/a", "a/", "a//b", "a\\b", "c:a", "a\n", "a b", "ü"),
        *("a\0", "a" * 81, "a/b/c/d/e/f/g/h", "%2e%2e", "~", "$HOME"),
    ],
)
def test_unsafe_paths(path: str) -> None:
    with pytest.raises(UsageError, match="unsafe path"):
        files.safe_join(Path("/x"), path)


@given(st.text(alphabet="a./\\~ %\0é", max_size=12))
def test_a_safe_path_stays_inside(path: str) -> None:
    if files.is_safe_relpath(path):
        assert (Path("/x") / path).resolve().is_relative_to("/x")
        assert (Path("/x") / path).resolve() != Path("/x")


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"123")
    assert files.folder_bytes(tmp_path) == 8
    assert files.folder_bytes(tmp_path / "a") == 5
    assert files.free_bytes(tmp_path / "not" / "there") > 0
