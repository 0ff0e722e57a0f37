"""Where a home's files lie, and that only one process holds it."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.paths import MAX_SOCKET_PATH_BYTES, Paths
from idiolect.errors import AlreadyRunning, ConfigError

HOLD = """
import sys
from pathlib import Path
from daemon.paths import Paths
with Paths.at(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_home_holds_everything(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    for field in dataclasses.fields(Paths):
        if field.name != "control_socket":
            assert getattr(paths, field.name).is_relative_to(tmp_path), field.name
    assert paths.config_file == tmp_path / "config.toml"
    assert paths.recordings == tmp_path / "recordings"


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDIOLECT_HOME", str(tmp_path))
    assert Paths.at() == Paths.at(tmp_path)
    assert Paths.at(tmp_path / "other").config_file == tmp_path / "other" / "config.toml"


def test_without_a_home_the_system_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDIOLECT_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    paths = Paths.at()
    assert paths.recordings == tmp_path / "idiolect" / "recordings"
    assert paths.config_file.name == "config.toml"
    assert len({paths.config_file.parent, paths.state, paths.cache}) == 3


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.at(Path("home")).state == tmp_path / "home" / "state"


def test_a_long_home_gets_a_short_socket_path_of_its_own(tmp_path: Path) -> None:
    long, other = (Paths.at(tmp_path / ("x" * 120) / name) for name in ("a", "b"))
    assert len(os.fsencode(long.control_socket)) <= MAX_SOCKET_PATH_BYTES
    assert long.control_socket == Paths.at(tmp_path / ("x" * 120) / "a").control_socket
    assert long.control_socket != other.control_socket


def test_state_is_private(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path / "home")
    paths.make()
    assert stat.S_IMODE(paths.state.stat().st_mode) == 0o700
    assert not paths.recordings.exists()


def test_a_home_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"(?s)cannot make the folder .*--home"):
        Paths.at(tmp_path / "file" / "home").make()


def test_a_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # a failed attempt must not make the next one blind
            with pytest.raises(AlreadyRunning, match=rf"pid {holder.pid}\b"), Paths.at(tmp_path).locked():
                pass
        holder.stdin.close()
    with Paths.at(tmp_path).locked():
        assert Paths.at(tmp_path).pid_file.read_text().strip() == str(os.getpid())
    assert not Paths.at(tmp_path).pid_file.exists()


def test_a_killed_holder_frees_the_home(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    with Paths.at(tmp_path).locked():
        pass


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    paths.make()
    paths.lock_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"), paths.locked():
        pass
