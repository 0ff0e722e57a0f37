"""A home for trials in which the daemon is killed or its disk is taken away: how it is begun, started and asked."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.config import ANY_TIME, Config, Export, Notify, Publish, Recordings, Server, Training, example
from daemon.paths import HOME_VARIABLE, Paths
from daemon.sync.control import ask
from idiolect.errors import NotRunning
from training import base_models
from training.split import side

VOICE = Path(base_models.__file__).parent / "data" / "voices" / "synthetic"
ROOT = Path(__file__).parent.parent
KEPT_RECORDINGS = 20
HELD_OUT_EVERY = 5
PHASE_WAIT_S = {False: 120.0, True: 10.0}  # small or not
UP_WAIT_S = 300.0
POLL_S = 0.05
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


@contextlib.contextmanager
def daemon(paths: Paths, small: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """`idiolect run` in the home, killed at the end if it still lives."""
    process = start(paths, "-c", SMALL) if small else start(paths, "-m", "daemon.cli", "run")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def output_file(paths: Paths) -> Path:
    """What the processes of a home printed; not on its disk."""
    return paths.state.parent.parent.with_name("printed.txt")


def start(paths: Paths, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, HOME_VARIABLE: str(paths.state.parent), "HF_HUB_OFFLINE": "1"}
    with output_file(paths).open("ab") as log:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)


def until_up(paths: Paths, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The first status of the daemon. SystemExit when it does not come up."""
    deadline_s = time.monotonic() + UP_WAIT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(NotRunning):
            return ask(paths, "status")
        if process.poll() is not None:
            raise SystemExit(f"the daemon did not start again (status {process.returncode}); see {paths.log_file}")
        time.sleep(POLL_S)
    raise SystemExit(f"the daemon did not answer within {UP_WAIT_S:.0f} s; see {paths.log_file}")


def status(trial: Trial) -> dict[str, Any]:
    """What the daemon says of itself; empty when it does not run."""
    try:
        return ask(trial.paths, "status")
    except NotRunning:
        return {}


def wait_for(trial: Trial, phase: str, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
    """Return when the phase has begun, or when that takes too long; the pull where that is the phase."""
    deadline_s = time.monotonic() + PHASE_WAIT_S[trial.small]
    while time.monotonic() < deadline_s and process.poll() is None:
        now = status(trial)
        if phase == "pull" and now.get("releases") and now["server"]["urls"]:
            trial.seen[phase] += 1
            return _pull(trial, now["server"]["urls"][0])
        stage = (now.get("job") or {}).get("stage", "")
        results = trial.paths.runs / str((now.get("job") or {}).get("run")) / "result.json"
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
    return start(trial.paths, *command)


def _clips() -> list[dict[str, str]]:
    """Those of the demo voice in an order that has each `HELD_OUT_EVERY`th held out: so few do to judge by."""
    lines = (VOICE / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    clips = [json.loads(line) for line in lines]
    judged = [clip for clip in clips if side(clip["text"]) == "held-out"]
    others = iter([clip for clip in clips if side(clip["text"]) != "held-out"])
    return [clip for one in judged for clip in (one, *islice(others, HELD_OUT_EVERY - 1))]
