"""The service in a systemd user manager of its own: what the unit's file promises is done, under all its hardening."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.samples import sound, write_wav

MANAGERS = [path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()]
PROGRAM = (sys.executable, "-m", "daemon.cli")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MANAGERS or shutil.which("systemctl") is None, reason="systemd is not on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a systemd of its own a control group"),
]


class Machine:
    """A home, and the manager whose sockets lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DBUS_", "XDG_"))},
            "HOME": str(folder / "me"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
        }
        for name in ("me", "run"):
            (folder / name).mkdir(mode=0o700)

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, env=self.environment, timeout=600, check=False)

    def idiolect(self, *words: str) -> str:
        done = self.call(*PROGRAM, "--home", str(self.home), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def unit(self) -> str:
        (file,) = Path(self.environment["HOME"]).glob(".config/systemd/user/*.service")
        return file.name

    def told(self, unit: str, name: str) -> str:
        return self.call("systemctl", "--user", "show", unit, "--value", "-p", name).stdout.strip()

    def restarted(self, unit: str, before: int) -> bool:
        return int(self.told(unit, "NRestarts")) > before

    def until(self, what: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 600
        while not what():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))  # socket names are short
        machine = Machine(folder)
        groups = [cleanup.enter_context(control_group(at, folder.name)) for at in control_group_mounts()]
        enter = "".join(f"echo $$ > {group}/cgroup.procs && " for group in groups)
        script = f"{enter}mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec {MANAGERS[0]} --user"
        with (folder / "log").open("w") as log:
            manager = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script], env=machine.environment, stdout=log, stderr=log
            )
        cleanup.callback(manager.wait)
        cleanup.callback(manager.terminate)
        machine.until(lambda: manager.poll() is not None or (folder / "run" / "systemd" / "private").exists())
        if manager.poll() is not None:
            pytest.skip(f"no systemd of its own here: {(folder / 'log').read_text().strip()}")
        yield machine


def control_group_mounts() -> list[Path]:
    """Where a manager wants to be in a group: of version 2, and of version 1 the hierarchy without a controller."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, at, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append(Path(at))
    return found


@contextlib.contextmanager
def control_group(at: Path, name: str) -> Iterator[Path]:
    """A group that is gone afterwards, with all that was started in it."""
    group = at / f"idiolect-{name}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of its own here: {error}")
    try:
        yield group
    finally:
        deadline_s = time.monotonic() + 60
        while group.exists() and time.monotonic() < deadline_s:
            for file in group.rglob("cgroup.procs"):
                for pid in file.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            for folder in sorted(filter(Path.is_dir, group.rglob("*")), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
            time.sleep(0.05)


def test_the_life_of_a_service(machine: Machine) -> None:
    machine.idiolect("init")
    settings = machine.home / "config.toml"
    settings.write_text(re.sub(r"(?m)^port = .*", "port = 0", settings.read_text()))
    assert "running as" in machine.idiolect("service", "install")  # which waits for READY
    unit = machine.unit()
    assert "active (running)" in machine.idiolect("service", "status")

    path = write_wav(machine.home / "recordings" / "a.wav", sound(0.5))  # its reader is started under the hardening
    path.with_suffix(".txt").write_text("some words")
    machine.until(lambda: "1 ready" in machine.idiolect("status"))

    assert machine.call("systemctl", "--user", "reload", unit).returncode == 0
    machine.until(lambda: machine.told(unit, "SubState") == "running")

    override = Path(machine.environment["HOME"]) / f".config/systemd/user/{unit}.d" / "soon.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nWatchdogSec=4\nRestartSec=0\n")
    machine.call("systemctl", "--user", "daemon-reload")
    machine.call("systemctl", "--user", "restart", unit)
    heard = machine.told(unit, "WatchdogTimestampMonotonic")
    machine.until(lambda: machine.told(unit, "WatchdogTimestampMonotonic") != heard)

    for trouble in ("SIGSTOP", "SIGKILL"):  # a daemon that hangs says nothing any more
        restarts = int(machine.told(unit, "NRestarts"))
        machine.call("systemctl", "--user", "kill", "-s", trouble, unit)
        machine.until(functools.partial(machine.restarted, unit, restarts))
        machine.until(lambda: machine.told(unit, "SubState") == "running")

    machine.call("systemctl", "--user", "stop", unit)
    assert (machine.told(unit, "ActiveState"), machine.told(unit, "Result")) == ("inactive", "success")
    assert "1 ready" in machine.idiolect("status")
    assert "These stay" in machine.idiolect("service", "uninstall")
    assert machine.told(unit, "LoadState") == "not-found"
