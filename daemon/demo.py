"""`idiolect demo`: the main job, for real, on the recordings that ship with idiolect, in a home of its own.

This process only drops recordings into the watched folder and looks on. A daemon started by the console script
learns, measures, exports, checks, publishes, serves and keeps the desktop's model; another process pulls like a phone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import config as settings
from daemon.demo_report import Finding, show_report
from daemon.paths import HOME_VARIABLE, Paths
from daemon.sync.control import ask
from daemon.terminal import out, plain, progress_reporter
from idiolect.errors import JobError, NotRunning, UsageError, require
from idiolect.files import write_text
from idiolect.install import Place
from idiolect.pairing import Pairings, scan
from training.base_models import NANO_ARCHIVE
from training.split import side

VOICES = NANO_ARCHIVE.parent / "voices"
VOCABULARY = "vocabulary.txt"  # a voice's words that nano never met
MARKER = ".idiolect-demo"
FIRST_BATCH_SHARE = 0.36  # enough for the recipe of many clips, which takes less time than that of few
TIMEOUT_S = 900.0
KEPT_S = 60.0
POLL_S = 0.5
PROFILES = ("android-futo", "desktop-whispercpp")


@dataclass(frozen=True)
class Recording:
    """One shipped recording and its words."""

    path: Path
    text: str


def run_demo(voice: str, folder: Path) -> int:
    """Everything from an empty folder to the table at the end; 0 when every promise was kept, else 1.

    `folder` is made anew where it is an earlier demo's. Raises UsageError for any other folder that is not empty.
    """
    require("torch", "train")
    require("pywhispercpp", "whispercpp")
    folder = folder.absolute()
    _make_home(folder)
    paths = Paths.at(folder)
    recordings = _shipped(voice)
    first = recordings[: int(len(recordings) * FIRST_BATCH_SHARE)]
    out.print(f"[bold]idiolect demo[/]: teaching nano the {voice} voice, in {plain(str(folder))}\n", soft_wrap=True)
    with _daemon(paths):
        _drop(first, paths.recordings)
        out.print(f"1. {len(first)} recordings put into the watched folder, as a sync tool does. The daemon trains:")
        _wait_for_run(paths, 1)
        _drop(recordings[len(first) :], paths.recordings)
        out.print(f"\n2. {len(recordings) - len(first)} more recordings. That is enough new speech to train again:")
        run, finished = _wait_for_run(paths, 2)
        if run["state"] != "published":
            raise JobError(
                f"{run['id']} was not published: {run['reason']}", f"see {paths.runs / run['id'] / 'job.log'}"
            )
        out.print("\n3. A phone, let in by a pairing code, and this computer pull the new model and use it:")
        finding = _devices(folder, voice, recordings, run, finished)
        status = ask(paths, "status")
    kept = show_report(voice, finding, status)
    return 0 if kept else 1


def _make_home(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise UsageError(f"{folder} is not empty and no demo made it", "name another --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    config = settings.Config.model_validate(
        {
            "recordings": {"settle_s": 1.0},
            "training": {
                "tiers": ("nano",),
                "first_run_minutes": 1.5,
                "next_run_minutes": 1.0,
                "next_run_percent": 50.0,
                "quiet_s": 1.0,
            },
            "conditions": settings.ANY_TIME,
            "export": {"profiles": PROFILES},
            "notify": {"desktop": False},
            "server": {"port": 0, "label": f"demo-{os.getpid()}"},
            "profiles": {name: {"tier": "nano"} for name in PROFILES},
        }
    )
    write_text(folder / "config.toml", settings.example(config))


def _shipped(voice: str) -> list[Recording]:
    rows = (VOICES / voice / "metadata.jsonl").read_text().splitlines()
    found = [json.loads(row) for row in rows]
    return [Recording(VOICES / voice / row["file_name"], row["text"]) for row in found]


def _drop(recordings: Sequence[Recording], folder: Path) -> None:
    """Write recordings the way Syncthing does: under a temporary name, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    for recording in recordings:
        text = recording.path.with_suffix(".txt").name
        for name, data in ((recording.path.name, recording.path.read_bytes()), (text, recording.text.encode())):
            temporary = folder / f".syncthing.{name}.tmp"
            temporary.write_bytes(data)
            temporary.rename(folder / name)


@contextlib.contextmanager
def _daemon(paths: Paths) -> Iterator[None]:
    """`idiolect run` as its own process, stopped at the end."""
    with (paths.config_file.parent / "daemon.out").open("wb") as log:
        process = subprocess.Popen(_idiolect("run"), env=_environment(paths.config_file.parent), stdout=log, stderr=log)
        try:
            _wait_until_up(paths, process)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def _wait_until_up(paths: Paths, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(NotRunning):
            ask(paths, "status")
            return
        time.sleep(0.2)
    raise JobError("the daemon did not start", f"its words: {paths.config_file.parent / 'daemon.out'}")


def _wait_for_run(paths: Paths, number: int) -> tuple[dict[str, Any], float]:
    """Show the daemon's progress until run `number` has ended: (the run, when its training finished)."""
    deadline = time.monotonic() + TIMEOUT_S
    trained = 0.0
    stage = ""
    with progress_reporter() as bar:
        while time.monotonic() < deadline:
            status = ask(paths, "status")
            job = status["job"]
            if job and job["run"].endswith(f"{number:04d}"):
                if job["stage"] != stage:
                    trained = time.time() if stage == "train" else trained
                    stage = job["stage"]
                    bar.stage(stage)
                bar.progress(job["done"], job["total"] or 1, job["unit"])
            runs = [run for run in status["runs"] if run["id"].endswith(f"{number:04d}")]
            if runs and runs[0]["state"] in {"published", "kept", "failed"}:
                break
            time.sleep(POLL_S)
        else:
            raise JobError(f"{number} trainings took over {TIMEOUT_S:.0f} s", f"see {paths.runs}")
    run: dict[str, Any] = runs[0]
    if run["state"] == "failed":
        raise JobError(f"{run['id']} failed: {run['reason']}", f"see {paths.runs / run['id'] / 'job.log'}")
    wer = f"WER {run['summary']['wer_stock']:.1%} → {run['summary']['wer_tuned']:.1%} on recordings it never saw"
    said = f"published as {run['release']}" if run["release"] else f"kept, not published: {run['reason']}"
    out.print(f"   {wer}; {plain(said)}", soft_wrap=True)
    return run, trained


def _devices(home: Path, voice: str, recordings: Sequence[Recording], run: dict[str, Any], trained: float) -> Finding:
    """What a phone, a process of its own, pulls and hears, and what the daemon has kept for this computer."""
    phone = home / "phone"
    started = time.time()
    paired = scan(ask(Paths.at(home), "pair", action="open")["uri"], label="phone")  # the QR code of `idiolect pair`
    without_address = paired.model_copy(update={"urls": ()})  # so that the network is asked where the service is
    Pairings(Paths.at(phone).pairings).save(without_address)
    pulled = _json("pull", "--profile", PROFILES[0], "--into", phone / "model", "--json", home=phone)
    pull_s = time.time() - started
    heard = _held_out(home / "held-out", recordings)
    stock = phone / "stock-nano-q4_0.bin"
    _call("export", "nano", "--format", "ggml", "--quant", "q4_0", "--outfile", stock, home=phone)
    words = VOICES / voice / VOCABULARY
    listed = ("--vocabulary", words) if words.exists() else ()
    on_phone = _json("evaluate", stock, pulled["files"][0], "--data", heard, *listed, "--json", home=phone)["results"]
    file = _kept_for_this_computer(home / "models" / "current" / PROFILES[1], pulled["release"])
    stock = home / "stock-nano-q5_0.bin"
    _call("export", "nano", "--format", "ggml", "--quant", "q5_0", "--outfile", stock, home=home)
    heard_by_desktop = _held_out(home / "held-out-half", recordings, every=2)  # 30 s windows are ten times the work
    arguments = ("--data", heard_by_desktop, "--audio-context", "full", "--json")
    model = Paths.at(home).runs / run["id"] / "checkpoint"
    on_desktop = _json("evaluate", stock, file, model, *arguments, home=home)["results"]
    examples = _side_by_side(phone, heard, Path(on_phone[0]["model"]), Path(on_phone[1]["model"]))
    return Finding(
        run=run,
        result=_json("runs", "show", run["id"], "--json", home=home)["result"],
        phone=(on_phone[0], on_phone[1]),
        desktop=(on_desktop[0], on_desktop[1], on_desktop[2]["wer"]),
        examples=examples,
        files={PROFILES[0]: Path(pulled["files"][0]), PROFILES[1]: file},
        pull_s=pull_s,
        found_at=pulled["url"],
        trained_to_pulled_s=started + pull_s - trained,
        home=home,
    )


def _kept_for_this_computer(folder: Path, release: str) -> Path:
    """The file of `release`, which the daemon puts there by itself."""
    deadline = time.monotonic() + KEPT_S
    while time.monotonic() < deadline:
        version = Place(folder).installed()
        if version and version.release_id == release:
            return next(folder.glob("*.bin"))
        time.sleep(POLL_S)
    raise JobError(f"the daemon put no model into {folder}", "see: idiolect status")


def _held_out(folder: Path, recordings: Sequence[Recording], every: int = 1) -> Path:
    """The recordings that never trained a model, or one of `every` so many, as a folder to score on."""
    folder.mkdir()
    rows = []
    for recording in [each for each in recordings if side(each.text) == "held-out"][::every]:
        shutil.copy(recording.path, folder)
        rows.append(json.dumps({"file_name": recording.path.name, "text": recording.text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def _side_by_side(home: Path, folder: Path, stock: Path, tuned: Path) -> list[tuple[str, str, str]]:
    """(said, heard by the stock file, heard by the tuned file) for the clips where the stock file fails."""
    said = {row["file_name"]: row["text"] for row in map(json.loads, (folder / "metadata.jsonl").open())}
    files = [folder / name for name in said][:12]
    heard = [
        [row["text"] for row in _json("transcribe", *files, "--model", model, "--json", home=home)["results"]]
        for model in (stock, tuned)
    ]
    rows = list(zip((said[file.name] for file in files), *heard, strict=True))
    return [row for row in rows if row[0] != row[1].lower()][:4]


def _idiolect(*arguments: str | Path) -> list[str]:
    """The console script of this installation."""
    script = Path(sys.executable).with_name("idiolect")
    return [str(script), *map(str, arguments)]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, HOME_VARIABLE: str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def _call(*arguments: str | Path, home: Path) -> str:
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            _idiolect(*arguments), env=_environment(home), stdout=subprocess.PIPE, stderr=errors, check=False, text=True
        )
        errors.seek(0)
        if done.returncode:
            said = errors.read().decode(errors="replace").strip()
            raise JobError(f"idiolect {arguments[0]} failed with status {done.returncode}", said)
    return done.stdout


def _json(*arguments: str | Path, home: Path) -> Any:  # noqa: ANN401
    return json.loads(_call(*arguments, home=home))
