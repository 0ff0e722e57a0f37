"""The daemon's whole job at real size: Whisper tiny and small of random weights, two steps each, to a pulled file.

`python -m benchmarks.real_size [PROFILE …]`, for every profile that ships unless some are named; those of other tiers
are given to the nearest smaller of the two. Size and speed do not depend on the weights, but for one thing: every text
ends after a word, where such weights would have runtimes decode on to the last position. The gate, which would refuse
such models, is overridden by `[publish] anyway`. Prints seconds and peak memory (job and its runtimes) of each stage.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

import device_profiles
from benchmarks.exporting import SMALL, TINY, make_checkpoint
from daemon import config
from daemon.paths import Paths
from daemon.sync.control import ask
from idiolect.client import Client
from idiolect.errors import NotRunning
from idiolect.pairing import Pairings
from idiolect.whisper import special_tokens
from training.base_models import NANO_ARCHIVE, resolve

TIERS = {"tiny": TINY, "small": SMALL}
STANDS_FOR = {"base": "tiny", "large-v3-turbo": "small", "large-v3": "small"}
ENDS_AT_ONCE_X = 100.0  # times the end token's row: at tiny's size its logit is then 16, the next one's 4
CLIPS = 60
VOICE = NANO_ARCHIVE.parent / "voices" / "human"


def main() -> int:
    """Print a line for each stage of each tier; 1 when a run was not published or a file not pulled."""
    names = sys.argv[1:] or list(device_profiles.load())
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        paths = _home(home, names)
        with _daemon(home, paths):
            _drop(paths.recordings)
            published = _watch(paths, len(TIERS))
            pairing = Pairings(paths.pairings).choose()
            for profile in names:
                started = time.monotonic()
                pulled = Client(home / "devices" / profile, profile, pairing=pairing).pull()
                seconds = time.monotonic() - started
                print(f"{'':10}{'pull ' + profile:34}{seconds:8.1f} s {pulled.size_bytes / 1e6:8.0f} MB file")
    return 0 if published else 1


def _home(home: Path, profiles: Sequence[str]) -> Paths:
    paths = Paths.at(home)
    paths.make()
    nano = resolve("nano", paths.cache)
    tiers = {name: profile.tier for name, profile in device_profiles.load().items() if name in profiles}
    for name, dims in TIERS.items():
        make_checkpoint(home / "stock" / name, dims, nano)
        _end_early(home / "stock" / name / "model.safetensors")
        for file in nano.glob("*.json"):
            if not (home / "stock" / name / file.name).exists():
                shutil.copy(file, home / "stock" / name)
    settings: dict[str, Any] = {
        "recordings": {"settle_s": 0.5},
        "training": {
            "tiers": list(TIERS),
            "bases": {name: str(home / "stock" / name) for name in TIERS},
            "first_run_minutes": 1.0,
            "quiet_s": 1.0,
            "epochs": 0.3,
            "batch_size": 8,
        },
        "conditions": config.ANY_TIME.model_dump(mode="json"),
        "export": {"profiles": list(profiles)},
        "profiles": {name: {"tier": STANDS_FOR[tier]} for name, tier in tiers.items() if tier in STANDS_FOR},
        "publish": {"anyway": True},
        "server": {"port": 0, "discovery": False},
    }
    paths.config_file.write_text(config.example(config.Config.model_validate_json(json.dumps(settings))))
    return paths


def _end_early(weights: Path) -> None:
    """Let every text end after its first word: the last layer leans towards the row of the end token."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(weights)
    rows = tensors["model.decoder.embed_tokens.weight"]
    tensors["model.decoder.layer_norm.bias"] = ENDS_AT_ONCE_X * rows[special_tokens(len(rows)).eot]
    save_file(tensors, weights, metadata={"format": "pt"})


@contextmanager
def _daemon(home: Path, paths: Paths) -> Iterator[None]:
    script = Path(sys.executable).with_name("idiolect")
    with (home / "daemon.out").open("wb") as out:
        process = subprocess.Popen([str(script), "--home", str(home), "run"], stdout=out, stderr=out)
        try:
            while process.poll() is None:
                with suppress(NotRunning):
                    ask(paths, "status")
                    break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait()


def _drop(folder: Path) -> None:
    for line in (VOICE / "metadata.jsonl").read_text().splitlines()[:CLIPS]:
        row = json.loads(line)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
        (folder / row["file_name"]).write_bytes((VOICE / row["file_name"]).read_bytes())


def _watch(paths: Paths, wanted: int) -> bool:
    """Print every stage as it ends, until `wanted` runs have; True when all of them were published."""
    print(f"{'tier':10}{'stage':34}{'time':>10} {'peak memory':>11}")
    stage, began, peak_bytes = ("", ""), time.monotonic(), 0
    while True:
        status = ask(paths, "status")
        job = status["job"]
        tiers = {run["id"]: run["tier"] for run in status["runs"]}
        now = (tiers.get(job["run"], ""), job["stage"]) if job else ("", "")
        if now != stage:
            if stage[1]:
                print(f"{stage[0]:10}{stage[1]:34}{time.monotonic() - began:8.1f} s {peak_bytes / 1e6:8.0f} MB")
            stage, began, peak_bytes = now, time.monotonic(), 0
        if job and job["pid"]:
            peak_bytes = max(peak_bytes, _resident_bytes(job["pid"]))
        ended = [run for run in status["runs"] if run["state"] in {"published", "kept", "failed"}]
        if len(ended) >= wanted and not job:
            for run in ended:
                print(f"{run['tier']:10}{run['id']} {run['state']}: {run['reason'][:120]}")
            return all(run["state"] == "published" for run in ended)
        time.sleep(0.1)


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total


if __name__ == "__main__":
    sys.exit(main())
