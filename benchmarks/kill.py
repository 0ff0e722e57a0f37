"""Kills the daemon at random moments and looks at what it leaves: `python -m benchmarks.kill [ROUNDS] [SEED] [small]`.

200 rounds and seed 0 where none are given. `small`: with a job of a moment in the place of nano, for many rounds of all
that the resident process itself does.

Each round starts the real daemon with nano on a home of its own, brings a new recording, takes an old one away, waits
for a phase (watch, train, export, publish, pull: in random order), and a random moment later kills -9 the daemon, half
of the time its job with it. Then the home must keep every promise of `broken`. Exit status 1 when one does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.trial import POLL_S, UP_WAIT_S, Trial, daemon, status, until_up, wait_for
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.sync.control import ask
from daemon.sync.releases import ReleaseStore
from exporters.readers import check_ggml
from idiolect.errors import IdiolectError
from idiolect.files import sha256_file
from idiolect.install import Place

PHASES = ("watch", "train", "export", "publish", "pull")
MANY = 50
LATER_S = 1.0
"""The kill comes so much after the phase was seen to begin, at most."""


def main() -> int:
    """Run the rounds and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    small = sys.argv[3:] == ["small"]
    with tempfile.TemporaryDirectory() as folder:
        found = list(kill_rounds(Path(folder), rounds, seed, tell=print, small=small))
    print(f"{sum(not broken for broken in found[:rounds])} of {rounds} rounds clean")
    return int(any(found))


def kill_rounds(
    folder: Path, rounds: int, seed: int, tell: Callable[[str], None], *, small: bool = False
) -> Iterator[list[str]]:
    """The broken promises of each round; one list more where, in many rounds, a phase was never met."""
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
    if rounds >= MANY and (unmet := set(PHASES) - set(trial.seen)):
        yield [f"never met: {', '.join(sorted(unmet))}"]


def one_round(trial: Trial, phase: str) -> list[str]:
    """Start, wait for the phase, kill; what was wrong on the way."""
    with daemon(trial.paths, trial.small) as process:
        found = [*_unaccounted(until_up(trial.paths, process)), *_unread(trial)]
        trial.bring()
        with contextlib.suppress(IdiolectError):  # nothing is ready yet
            ask(trial.paths, "train")
        pull = wait_for(trial, phase, process)
        time.sleep(trial.chance.uniform(0, LATER_S))
        job = status(trial).get("job") or {}
        process.send_signal(signal.SIGKILL)
        process.wait()
        if job.get("pid") and trial.chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job["pid"], signal.SIGKILL)
        if pull is not None:
            pull.kill()
            pull.wait()
    return found


def _unread(trial: Trial) -> list[str]:
    """What the dead daemon had not read yet, the next one reads."""
    deadline_s, ready = time.monotonic() + UP_WAIT_S, -1
    while time.monotonic() < deadline_s:
        ready = status(trial).get("recordings", {}).get("ready", -1)
        if ready == trial.on_disk():
            return []
        time.sleep(POLL_S)
    return [f"{ready} of {trial.on_disk()} recordings are ready {UP_WAIT_S:.0f} s after the start"]


def broken(trial: Trial) -> list[str]:
    """The promises that the home of a dead daemon does not keep."""
    found = []
    library = Library(trial.paths.library_db)
    try:
        held = {str(recording.path) for recording in library.recordings("ready")}
    finally:
        library.close()
    with contextlib.closing(sqlite3.connect(trial.paths.library_db)) as database:
        if (answer := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            found.append(f"the library is damaged: {answer}")
        (clips,) = database.execute(
            "SELECT count(*) FROM file_clips JOIN files USING (path) WHERE state = 'ready' AND NOT gone"
        ).fetchone()
    if forgotten := trial.ready - held:
        found.append(f"{len(forgotten)} ready recordings forgotten, as {min(forgotten)}")
    trial.ready = {path for path in held if Path(path).exists()}
    if clips > len(held):  # every recording here is one clip
        found.append(f"counted twice: {clips} clips in {len(held)} recordings")
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


def _runs(paths: Paths) -> list[dict[str, str]]:
    library = Library(paths.library_db)
    try:
        return [{"id": run.id, "state": run.state} for run in library.runs()]
    finally:
        library.close()


if __name__ == "__main__":
    sys.exit(main())
