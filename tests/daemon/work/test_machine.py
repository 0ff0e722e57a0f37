"""The real machine, read."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from daemon.work.machine import Machine, gpu_user, other_user

BUSY = "import time\nwhile True: pass"


def test_a_reading_tells_what_the_system_tells(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "not" / "made", 100.0, sleep=lambda seconds: None)
    assert machine.reading is None
    reading = machine.look()
    assert machine.reading is reading
    assert 0 <= reading.minute < 1440
    assert 0 <= reading.others_percent <= 100
    assert reading.calm_s == float("inf")
    assert 0 < reading.free_memory_bytes <= psutil.virtual_memory().total
    assert reading.free_disk_bytes > 0


def test_work_of_idiolect_itself_is_no_load_and_others_work_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processors = psutil.cpu_count() or 1
    times = [(0.0, 0.0, 0.0), (10.0, 10.0 * processors, 9.0 * processors)]
    monkeypatch.setattr("daemon.work.machine._times_s", lambda: times.pop(0))
    reading = Machine(tmp_path, 5.0, sleep=lambda seconds: None).look()
    assert reading.others_percent == pytest.approx(10.0)
    assert reading.calm_s < 60


@pytest.mark.slow
def test_the_time_of_children_counts_as_own() -> None:
    from daemon.work.machine import _times_s

    before = _times_s()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    running = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        deadline_s = time.monotonic() + 30
        while sum(psutil.Process(running.pid).cpu_times()[:2]) < 0.3 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        after = _times_s()
    finally:
        running.kill()
        running.wait()
    assert after[2] - before[2] >= 0.5
    assert after[1] - before[1] >= 0.5


def test_another_program_on_the_gpu_is_named() -> None:
    assert other_user("12, /usr/bin/python3\n34, /opt/blender/blender\n", {12}) == "blender"
    assert other_user("12, /usr/bin/python3\n", {12}) == ""
    assert other_user("", set()) == ""
    assert other_user("No running processes found\n", set()) == ""
    assert other_user("77, \n", set()) == "process 77"


def test_a_tool_that_fails_means_a_free_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 4194304, /usr/bin/other\nexit ${FAIL:-0}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_user() == "other"
    monkeypatch.setenv("FAIL", "9")
    assert gpu_user() == ""
