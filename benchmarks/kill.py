"""Kills the daemon at random moments and looks at what it leaves: `python -m benchmarks.kill [ROUNDS] [SEED] [small]`.

200 rounds and seed 0 where none are given. `small`: with a job of a moment in the place of nano, for many rounds of all
that the resident process itself does.

Each round starts the real daemon with nano on a home of its own, brings a new recording, takes an old one away, waits
for a phase (watch, train, export, publish, pull: in random order), and a random moment later kills -9 the daemon, half
of the time its job with it. Then the home must keep every promise of `broken`. Exit status 1 when one does not.

`python -m benchmarks.kill full` does the same to a home on a small file system of its own that is filled up, made
read-only under the running daemon, and started from read-only (Linux, in a user namespace). `status` must name the
disk each time, and the work go on when it can be written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.config import ANY_TIME, Config, Export, Notify, Publish, Recordings, Server, Training, example
from daemon.intake.library import Library
from daemon.paths import HOME_VARIABLE, Paths
from daemon.sync.control import ask
from daemon.sync.releases import ReleaseStore
from exporters.readers import check_ggml
from idiolect.errors import IdiolectError, NotRunning
from idiolect.files import sha256_file
from idiolect.install import Place
from training import base_models
from training.split import side

VOICE = Path(base_models.__file__).parent / "data" / "voices" / "synthetic"
ROOT = Path(__file__).parent.parent
PHASES = ("watch", "train", "export", "publish", "pull")
KEPT_RECORDINGS = 20
HELD_OUT_EVERY = 5
PHASE_WAIT_S = {False: 120.0, True: 10.0}  # small or not
LATER_S = 1.0
"""The kill comes so much after the phase was seen to begin, at most."""
POLL_S = 0.05
TMPFS_MB = {False: 500, True: 30}
TOLD_S = {False: 120.0, True: 10.0}
"""So soon `status` must say that the disk is the trouble."""
DISK_WORDS = re.compile(r"No space left|disk is full|disk space|Read-only|readonly", re.IGNORECASE)
MOUNT_VARIABLE = "IDIOLECT_KILL_MOUNT"
SMALL = """
import sys
from daemon.config import load
from daemon import run
from daemon.intake import intake
from daemon.paths import Paths
run.TROUBLE_PAUSE_S = 1.0
intake.POLL_S = 0.5
paths = Paths.at(None)
run.Daemon(paths, load(paths.config_file), pipeline=(sys.executable, "-m", "tests.daemon.small_job", "phased")).run()
"""
CONFIG = Config(
    recordings=Recordings(settle_s=0.05),
    training=Training(tiers=("nano",), first_run_minutes=0.0, quiet_s=0.0, min_new_clips=1, epochs=0.5, threads=1),
    conditions=ANY_TIME,
    export=Export(profiles=("android-futo",)),
    publish=Publish(anyway=True),
    notify=Notify(desktop=False),
    server=Server(port=0, discovery=False),
    profiles={"android-futo": {"tier": "nano", "max_wer_loss": 1.0}},
)


@dataclass
class Trial:
    """One home and what was seen of it so far."""

    paths: Paths
    chance: random.Random
    version: int = 0
    ready: set[str] = field(default_factory=set)
    published: dict[str, str] = field(default_factory=dict)  # digest of every file ever published → release
    seen: Counter[str] = field(default_factory=Counter)
    next_clip: int = 0
    small: bool = False
    clips: list[dict[str, str]] = field(default_factory=lambda: _clips())

    @classmethod
    def begin(cls, folder: Path, seed: int, *, small: bool = False) -> Trial:
        """A new home, `folder`/disk/home, with recordings of which some are held out."""
        trial = cls(Paths.at(folder / "disk" / "home"), random.Random(seed), small=small)
        trial.paths.make()
        trial.paths.config_file.write_text(example(CONFIG))
        trial.paths.recordings.mkdir(exist_ok=True)
        for _ in range(KEPT_RECORDINGS):
            trial.bring()
        return trial

    @property
    def device(self) -> Path:
        """Where the pulling device keeps its model."""
        return self.paths.state.parent / "device" / "model"

    def bring(self) -> None:
        """One more recording; the oldest goes when there are enough."""
        clip = self.clips[self.next_clip % len(self.clips)]
        audio = self.paths.recordings / Path(clip["file_name"]).name
        audio.with_suffix(".txt").write_text(clip["text"], encoding="utf-8")
        shutil.copyfile(VOICE / clip["file_name"], audio.with_name(f".{audio.name}.part"))
        audio.with_name(f".{audio.name}.part").rename(audio)
        if self.next_clip >= KEPT_RECORDINGS:
            old = Path(self.clips[(self.next_clip - KEPT_RECORDINGS) % len(self.clips)]["file_name"]).name
            for path in (self.paths.recordings / old, (self.paths.recordings / old).with_suffix(".txt")):
                path.unlink(missing_ok=True)
            self.ready.discard(str(self.paths.recordings / old))
        self.next_clip += 1

    def on_disk(self) -> int:
        """How many recordings there are."""
        return len(list(self.paths.recordings.glob("*.ogg")))


def _clips() -> list[dict[str, str]]:
    """Those of the demo voice in an order that has each `HELD_OUT_EVERY`th held out: so few do to judge by."""
    lines = (VOICE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    clips = [json.loads(line) for line in lines]
    judged = [clip for clip in clips if side(clip["text"]) == "held-out"]
    others = iter([clip for clip in clips if side(clip["text"]) != "held-out"])
    return [clip for one in judged for clip in (one, *islice(others, HELD_OUT_EVERY - 1))]


def main() -> int:
    """Run the rounds and print."""
    if sys.argv[1:2] == ["full"]:
        return in_small_filesystem(small=sys.argv[2:] == ["small"])
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    small = sys.argv[3:] == ["small"]
    with tempfile.TemporaryDirectory() as folder:
        clean = sum(not found for found in kill_rounds(Path(folder), rounds, seed, tell=print, small=small))
    print(f"{clean} of {rounds} rounds clean")
    return int(clean < rounds)


def kill_rounds(
    folder: Path, rounds: int, seed: int, tell: Callable[[str], None], *, small: bool = False
) -> Iterator[list[str]]:
    """The broken promises of each round."""
    trial = Trial.begin(folder, seed, small=small)
    began_s, phases = time.monotonic(), list[str]()
    for number in range(1, rounds + 1):
        phases = phases or trial.chance.sample(PHASES, len(PHASES))  # each once in so many rounds
        phase = phases.pop()
        found = [*one_round(trial, phase), *broken(trial)]
        said = "; ".join(found) or "clean"
        states = Counter(run["state"] for run in _runs(trial.paths))
        tell(
            f"{number:4d} {time.monotonic() - began_s:6.0f} s  {phase:8} {said}  "
            f"(manifest {trial.version}, runs: {', '.join(f'{n} {state}' for state, n in sorted(states.items()))})"
        )
        yield found
    tell("phases met: " + ", ".join(f"{count} {phase}" for phase, count in trial.seen.most_common()))


def one_round(trial: Trial, phase: str) -> list[str]:
    """Start, wait for the phase, kill; what was wrong on the way."""
    with daemon(trial.paths, trial.small) as process:
        status = _until_up(trial.paths, process)
        found = _unaccounted(status)
        trial.bring()
        with contextlib.suppress(IdiolectError):  # nothing is ready yet
            ask(trial.paths, "train")
        pull = _wait_for(trial, phase, process)
        time.sleep(trial.chance.uniform(0, LATER_S))
        job = _status(trial).get("job") or {}
        process.send_signal(signal.SIGKILL)
        process.wait()
        if job.get("pid") and trial.chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job["pid"], signal.SIGKILL)
        if pull is not None:
            pull.kill()
            pull.wait()
    return found


def broken(trial: Trial) -> list[str]:
    """The promises that the home of a dead daemon does not keep."""
    found = []
    library = Library(trial.paths.library_db)
    try:
        held = {str(recording.path) for recording in library.recordings("ready")}
        clips = library.ready_clips()
        counts = library.counts()
    finally:
        library.close()
    with contextlib.closing(sqlite3.connect(trial.paths.library_db)) as database:
        if (answer := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            found.append(f"the library is damaged: {answer}")
    if forgotten := trial.ready - held:
        found.append(f"{len(forgotten)} ready recordings forgotten, as {min(forgotten)}")
    trial.ready = {path for path in held if Path(path).exists()}
    if len({clip.pcm_sha256 for clip in clips}) < len(clips) or counts.clips > counts.ready:
        found.append(f"counted twice: {counts.clips} clips in {counts.ready} recordings")
    return [*found, *_broken_releases(trial), *_broken_exports(trial), *_broken_device(trial)]


def _broken_releases(trial: Trial) -> list[str]:
    found = []
    store = ReleaseStore(trial.paths.store)
    if store.version < trial.version:
        found.append(f"the published version fell from {trial.version} to {store.version}")
    trial.version = store.version
    for release in store.manifest.releases if store.manifest else ():
        for artifact in release.artifacts:
            for file in artifact.files:
                trial.published[file.sha256] = release.id
                blob = store.blob(file.sha256)
                if blob is None or not blob.exists() or sha256_file(blob) != file.sha256:
                    found.append(f"{release.id}: {file.path} is not what the manifest says")
    return found


def _broken_exports(trial: Trial) -> list[str]:
    found = []
    for file in trial.paths.runs.glob("*/artifacts/[!.]*/*.bin"):
        try:
            check_ggml(file)
        except IdiolectError as error:
            found.append(f"half an export: {file.relative_to(trial.paths.runs)}: {error.message}")
    return found


def _broken_device(trial: Trial) -> list[str]:
    installed = Place(trial.device).installed()
    if installed is None:
        return []
    files = [file for file in trial.device.rglob("*") if file.is_file() and not file.name.startswith(".")]
    wrong = [file for file in files if trial.published.get(sha256_file(file)) != installed.release_id]
    return [f"the device has half a model: {file.name} of {installed.release_id}" for file in wrong]


def _unaccounted(status: dict[str, Any]) -> list[str]:
    """After a start every run is done, goes on, or is marked with a reason."""
    now = (status["job"] or {}).get("run")
    runs = [run for run in status["runs"] if run["state"] == "running" and run["id"] != now]
    unexplained = [run for run in status["runs"] if run["state"] in {"interrupted", "failed"} and not run["reason"]]
    return [f"{run['id']} is called {run['state']}, and nobody knows why" for run in [*runs, *unexplained]]


def _wait_for(trial: Trial, phase: str, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
    """Return when the phase has begun, or when that takes too long; the pull where that is the phase."""
    deadline_s = time.monotonic() + PHASE_WAIT_S[trial.small]
    while time.monotonic() < deadline_s and process.poll() is None:
        status = _status(trial)
        if phase == "pull" and status.get("releases") and status["server"]["urls"]:
            trial.seen[phase] += 1
            return _pull(trial, status["server"]["urls"][0])
        stage = (status.get("job") or {}).get("stage", "")
        results = trial.paths.runs / str((status.get("job") or {}).get("run")) / "result.json"
        if _has_begun(phase, stage, results.exists()):
            trial.seen[phase] += 1
            return None
        time.sleep(POLL_S)
    trial.seen[f"none of {phase}"] += 1
    return None


def _has_begun(phase: str, stage: str, has_result: bool) -> bool:
    return {
        "watch": True,
        "train": stage == "train",
        "export": stage.startswith(("export", "check")),
        "publish": has_result,
        "pull": False,
    }[phase]


def _pull(trial: Trial, url: str) -> subprocess.Popen[bytes]:
    command = ["-m", "daemon.cli", "pull", "--profile", "android-futo", "--url", url, "--into", str(trial.device)]
    trial.device.parent.mkdir(exist_ok=True)
    return _start(trial.paths, *command)


@contextlib.contextmanager
def daemon(paths: Paths, small: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """`idiolect run` in the home, killed at the end if it still lives."""
    process = _start(paths, "-c", SMALL) if small else _start(paths, "-m", "daemon.cli", "run")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def output_file(paths: Paths) -> Path:
    """What the processes of a home printed; not on its disk."""
    return paths.state.parent.parent.with_name("printed.txt")


def _start(paths: Paths, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, HOME_VARIABLE: str(paths.state.parent), "HF_HUB_OFFLINE": "1"}
    with output_file(paths).open("ab") as log:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)


def _until_up(paths: Paths, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        with contextlib.suppress(NotRunning):
            return ask(paths, "status")
        if process.poll() is not None:
            raise SystemExit(f"the daemon did not start again (status {process.returncode}); see {paths.log_file}")
        time.sleep(POLL_S)
    raise SystemExit(f"the daemon did not answer within 30 s; see {paths.log_file}")


def _status(trial: Trial) -> dict[str, Any]:
    try:
        return ask(trial.paths, "status")
    except NotRunning:
        return {}


def _runs(paths: Paths) -> list[dict[str, str]]:
    library = Library(paths.library_db)
    try:
        return [{"id": run.id, "state": run.state} for run in library.runs()]
    finally:
        library.close()


def in_small_filesystem(*, small: bool = False) -> int:
    """`full` again in a user namespace, on a tmpfs that it may mount there."""
    if MOUNT_VARIABLE in os.environ:
        return full_and_read_only(Path(os.environ[MOUNT_VARIABLE]).parent, small=small)
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        mount = f'mount -t tmpfs -o size={TMPFS_MB[small]}m tmpfs "${MOUNT_VARIABLE}"'
        script = f'{mount} && exec "$0" -m benchmarks.kill full {"small" if small else ""}'
        command = ["unshare", "-rm", "sh", "-c", script, sys.executable]
        environment = {**os.environ, MOUNT_VARIABLE: str(disk)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def full_and_read_only(folder: Path, *, small: bool = False) -> int:
    """Take the disk away in each phase, look, give it back, and see the work go on; then start on a read-only disk."""
    trial = Trial.begin(folder, 0, small=small)
    clean = True
    for phase in ("watch", "train", "export", "publish"):
        for trouble, disk in (("full", full_disk), ("read-only", read_only_disk)):
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
        _until_up(trial.paths, process)
        trial.bring()
        with contextlib.suppress(IdiolectError):
            ask(trial.paths, "train")
        _wait_for(trial, phase, process)
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
    deadline_s = time.monotonic() + TOLD_S[trial.small]
    while time.monotonic() < deadline_s:
        keep_so()
        with contextlib.suppress(IdiolectError):
            ask(trial.paths, "train")
        status = _status(trial)
        said = [*status.get("warnings", ()), *(run["reason"] for run in status.get("runs", ())[:1])]
        if any(DISK_WORDS.search(text) for text in said):
            return True
        time.sleep(POLL_S)
    return False


def _goes_on(trial: Trial, published: int) -> bool:
    deadline_s = time.monotonic() + 600
    while time.monotonic() < deadline_s:
        with contextlib.suppress(IdiolectError):
            status = ask(trial.paths, "status")
            newest = ReleaseStore(trial.paths.store).version
            if newest > published and status["recordings"]["ready"] == trial.on_disk():
                return True
            if not status["job"]:
                ask(trial.paths, "train")
        time.sleep(5 * POLL_S)
    return False


def _started_read_only(trial: Trial, disk: Path) -> str:
    deadline_s = time.monotonic() + 60  # a job that outlived its daemon still writes
    while subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{disk} is still written to after a minute")
        time.sleep(1)
    environment = {**os.environ, HOME_VARIABLE: str(trial.paths.state.parent)}
    command = [sys.executable, "-m", "daemon.cli", "run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    return done.stderr


if __name__ == "__main__":
    sys.exit(main())
