"""What `idiolect status` says without a daemon; with one it is in test_run.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.config import Config
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.status import offline_status
from idiolect.errors import AlreadyRunning
from tests.daemon.homes import CONFIG, changed

KEYS = {"recordings_folder", "recordings", "rejections", "waiting", "hours", "next", "job", "runs", "releases"}


def test_a_new_home_says_what_to_do(tmp_path: Path) -> None:
    status = offline_status(Paths.at(tmp_path), CONFIG)
    assert status.keys() >= KEYS | {"server", "warnings", "pid"}
    assert status["pid"] is None
    assert status["recordings"] == {"ready": 0, "waiting": 0, "rejected": 0, "duplicate": 0}
    assert status["recordings_folder"] == str(tmp_path / "recordings")
    assert status["next"]["reason"] == "no recording with a transcript yet"
    assert any("idiolect run" in warning for warning in status["warnings"])
    assert any("does not exist" in warning for warning in status["warnings"])
    assert json.loads(json.dumps(status)) == status


def test_all_folders_are_named(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b")
    status = offline_status(Paths.at(tmp_path), changed(recordings={"folders": folders}))
    assert status["recordings_folder"] == str(folders[0])
    assert status["recordings_folders"] == [str(folder) for folder in folders]


def test_runs_are_shown_newest_first(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    with Rooms.opened(paths, CONFIG) as rooms:
        for _ in range(2):
            rooms.library.create_run("nano", "nano", ())
        rooms.library.update_run("run-0001", state="failed", reason="the disk is full")
    runs = offline_status(paths, Config())["runs"]
    assert [run["id"] for run in runs] == ["run-0002", "run-0001"]
    assert (runs[1]["state"], runs[1]["reason"]) == ("failed", "the disk is full")
    assert runs[1]["finished"] >= runs[1]["created"]
    assert runs[0]["finished"] is None


def test_it_does_not_read_over_a_daemons_shoulder(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    with paths.locked(), pytest.raises(AlreadyRunning):
        offline_status(paths, CONFIG)
