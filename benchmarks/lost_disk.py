"""Takes the daemon's disk away and looks at what it says: `python -m benchmarks.lost_disk [small]`.

A home on a small file system of its own (Linux, in a user namespace) is filled up, made read-only under the running
daemon in each phase, and started from read-only. `status` must name the disk each time, the work go on when it can be
written again, and the home keep every promise of `benchmarks.kill`. Exit status 1 when one does not. `small`: with a
job of a moment in the place of nano.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.kill import broken
from benchmarks.trial import POLL_S, ROOT, Trial, daemon, output_file, status, until_up, wait_for
from daemon.paths import HOME_VARIABLE
from daemon.sync.control import ask
from daemon.sync.releases import ReleaseStore
from idiolect.errors import IdiolectError

TMPFS_MB = {False: 500, True: 30}  # small or not
TOLD_S = 120.0
"""So soon `status` must say that the disk is the trouble."""
DISK_WORDS = re.compile(r"No space left|disk is full|disk space|Read-only|readonly", re.IGNORECASE)
MOUNT_VARIABLE = "IDIOLECT_DISK_MOUNT"


def in_small_filesystem(*, small: bool = False) -> int:
    """`full_and_read_only` in a user namespace, on a tmpfs that may be mounted there."""
    if MOUNT_VARIABLE in os.environ:
        return full_and_read_only(Path(os.environ[MOUNT_VARIABLE]).parent, small=small)
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        mount = f'mount -t tmpfs -o size={TMPFS_MB[small]}m tmpfs "${MOUNT_VARIABLE}"'
        script = f'{mount} && exec "$0" -m benchmarks.lost_disk {"small" if small else ""}'
        command = ["unshare", "-rm", "sh", "-c", script, sys.executable]
        environment = {**os.environ, MOUNT_VARIABLE: str(disk)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def full_and_read_only(folder: Path, *, small: bool = False) -> int:
    """Take the disk away in each phase, look, give it back, and see the work go on; then start on a read-only disk."""
    trial = Trial.begin(folder, 0, small=small)
    clean = True
    troubles = (("full", full_disk), ("read-only", read_only_disk))
    for number, phase in enumerate(("watch", "train", "export", "publish")):
        for trouble, disk in troubles[number % 2 :: 2] if small else troubles:  # one in each phase where it is small
            found = _without_disk(trial, phase, disk)
            clean = clean and not found
            print(f"disk {trouble:9} in {phase:8} {'; '.join(found) or 'clean'}", flush=True)
    said = _started_read_only(trial, folder / "disk")
    clean = clean and "Traceback" not in said and "error:" in said and not broken(trial)
    print(f"started read-only: {said.strip()}")
    return int(not clean)


def _without_disk(trial: Trial, phase: str, disk: Disk) -> list[str]:
    published = trial.version
    with daemon(trial.paths, trial.small) as process:
        until_up(trial.paths, process)
        trial.bring()
        with contextlib.suppress(IdiolectError):
            ask(trial.paths, "train")
        wait_for(trial, phase, process)
        with disk(trial.paths.state.parent) as keep_so:
            told = _tells_of_disk(trial, keep_so)
        found = [] if process.poll() is None else ["the daemon died of it"]
        trial.bring()
        found += [] if told else ["status did not name the disk"]
        found += [] if _goes_on(trial, published) else ["nothing was published after the disk was back"]
    printed = output_file(trial.paths).read_text()
    found += [f"on the terminal: {printed[at : at + 3000]}"] if (at := printed.find("Traceback")) >= 0 else []
    return [*found, *broken(trial)]


Disk = Callable[[Path], contextlib.AbstractContextManager[Callable[[], object]]]
"""While the block runs, nothing can be written at the path; what it gives is called again and again to keep it so."""


@contextlib.contextmanager
def full_disk(home: Path) -> Iterator[Callable[[], object]]:
    """A file beside the home takes all the room there is."""
    filler = home.with_name("filler")
    with filler.open("wb", buffering=0) as file:

        def fill() -> None:
            for size in (65_536, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

        fill()
        try:
            yield fill
        finally:
            filler.unlink()


@contextlib.contextmanager
def read_only_disk(home: Path) -> Iterator[Callable[[], object]]:
    """The home is mounted over itself, read-only: what is open stays so, as the kernel refuses to take that away."""
    subprocess.run(["mount", "--bind", home, home], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
    try:
        yield lambda: None
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def _tells_of_disk(trial: Trial, keep_so: Callable[[], object]) -> bool:
    deadline_s = time.monotonic() + TOLD_S
    while time.monotonic() < deadline_s:
        keep_so()
        with contextlib.suppress(IdiolectError):
            ask(trial.paths, "train")
        now = status(trial)
        said = [*now.get("warnings", ()), *(run["reason"] for run in now.get("runs", ())[:1])]
        if any(DISK_WORDS.search(text) for text in said):
            return True
        time.sleep(POLL_S)
    return False


def _goes_on(trial: Trial, published: int) -> bool:
    deadline_s = time.monotonic() + 600
    while time.monotonic() < deadline_s:
        with contextlib.suppress(IdiolectError):
            now = ask(trial.paths, "status")
            newest = ReleaseStore(trial.paths.store).version
            if newest > published and now["recordings"]["ready"] == trial.on_disk():
                return True
            if not now["job"]:
                ask(trial.paths, "train")
        time.sleep(5 * POLL_S)
    return False


def _started_read_only(trial: Trial, disk: Path) -> str:
    deadline_s = time.monotonic() + 600  # a job that outlived its daemon still writes
    while subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{disk} is still written to after ten minutes")
        time.sleep(1)
    environment = {**os.environ, HOME_VARIABLE: str(trial.paths.state.parent)}
    command = [sys.executable, "-m", "daemon.cli", "run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    return done.stderr


if __name__ == "__main__":
    sys.exit(in_small_filesystem(small=sys.argv[1:] == ["small"]))
