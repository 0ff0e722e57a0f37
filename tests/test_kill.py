"""The real daemon: rounds of benchmarks/kill.py, and benchmarks/lost_disk.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.kill import kill_rounds
from benchmarks.lost_disk import in_small_filesystem


@pytest.mark.torch
@pytest.mark.whispercpp
def test_nothing_is_lost_whenever_the_daemon_dies(tmp_path: Path) -> None:
    said: list[str] = []
    rounds = list(kill_rounds(tmp_path, 3, seed=2, tell=said.append))  # exporting, training, publishing
    assert rounds == [[]] * 3, said


def _may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_full_and_a_read_only_disk_cost_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not _may_mount(tmp_path):
        pytest.skip("this machine lets no user mount a tmpfs in a namespace of their own")
    status = in_small_filesystem(small=True)
    said = capfd.readouterr().out
    assert status == 0, said
    assert said.count("clean") == 4
