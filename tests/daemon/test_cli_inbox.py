"""send and inbox on the command line, against a daemon that lives and without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from daemon.paths import Paths
from daemon.run import Daemon
from tests.daemon.homes import CONFIG, changed, living, pipeline, until
from tests.daemon.sync.post import wav
from tests.daemon.test_cli import idiolect

pytestmark = pytest.mark.slow


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    config = changed(
        CONFIG, recordings={"min_free_gb": 0.0}, training={"first_run_minutes": 1e5, "min_new_clips": 10_000}
    )
    async with living(Daemon(Paths.at(tmp_path / "home"), config, pipeline=pipeline("good"))) as daemon:
        yield daemon


async def run(home: Path, *arguments: str | Path) -> CompletedProcess[str]:
    return await asyncio.to_thread(idiolect, *arguments, home=home)


def note(folder: Path, number: int, text: str = "") -> Path:
    """A recording with its text beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"note {number}.wav"
    path.write_bytes(wav(folder.parent, 2.0, seed=number))
    if text:
        path.with_suffix(".txt").write_text(text)
    return path


async def test_from_another_computer_into_the_library(daemon: Daemon, tmp_path: Path) -> None:
    home, laptop, notes = tmp_path / "home", tmp_path / "laptop", tmp_path / "notes"
    for number in range(3):
        note(notes, number, f"note number {number}")
    note(notes, 3)
    refused = await run(laptop, "send", notes)
    assert refused.returncode == 6
    code = (await run(home, "pair", "--show")).stdout.strip()
    sent = await run(laptop, "send", "--pair", code, notes)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.count("it waits to be looked at there") == 4
    assert sent.stdout.count("without text") == 1
    listed = json.loads((await run(home, "inbox", "--json")).stdout)
    assert [each["text"] for each in listed["recordings"]] == [f"note number {n}" for n in range(3)] + [None]
    assert daemon.status()["recordings"]["ready"] == 0

    assert (await run(home, "inbox", "take", "1")).returncode == 0
    await until(lambda: daemon.status()["recordings"]["ready"] == 1)
    assert (await run(home, "inbox", "refuse", "2")).stdout == "1 thrown away\n"
    assert (await run(home, "inbox", "take")).returncode == 2
    assert (await run(home, "inbox", "take", "2")).returncode == 2
    label = listed["recordings"][0]["device_label"]
    assert (await run(home, "inbox", "trust", label)).returncode == 0
    note(notes, 4, "note number 4")
    assert "taken in" in (await run(laptop, "send", notes)).stdout
    await until(lambda: daemon.status()["recordings"]["ready"] == 2)

    undone = await run(home, "inbox", "undo", label)
    assert "4 recordings of d-" in undone.stdout
    await until(lambda: daemon.status()["recordings"]["ready"] == 0)
    assert "nothing waits" in (await run(home, "inbox")).stdout
    assert "was refused there" in (await run(laptop, "send", notes / "note 4.wav")).stdout


async def test_what_cannot_be_sent(daemon: Daemon, tmp_path: Path) -> None:
    home, laptop = tmp_path / "home", tmp_path / "laptop"
    code = (await run(home, "pair", "--show")).stdout.strip()
    good, bad = note(tmp_path / "notes", 1), tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    done = await run(laptop, "send", "--json", "--pair", code, bad, tmp_path / "none.wav", good)
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert found["not_taken"] == [str(bad), str(tmp_path / "none.wav")]
    assert [each["file"] for each in found["sent"]] == [str(good)]
    assert "not audio" in done.stderr
    assert (await run(laptop, "send", good, bad, "--text", "both")).returncode == 2
    again = await run(laptop, "send", good, "--text", "its text")
    assert again.returncode == 0
    assert "its text" in (await run(home, "inbox")).stdout
    own = await run(home, "send", good)  # this computer itself needs no such way
    assert own.returncode == 6


def test_without_a_daemon(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "nothing waits" in idiolect("inbox", home=home).stdout
    assert json.loads(idiolect("inbox", "--json", home=home).stdout) == {"recordings": [], "trusted": []}
    for arguments in (["take", "7"], ["trust", "nobody"], ["undo", "nobody"]):
        assert idiolect("inbox", *arguments, home=home).returncode == 2
    assert idiolect("inbox", "review", home=home).returncode == 0
