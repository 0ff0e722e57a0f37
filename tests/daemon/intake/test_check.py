import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daemon.intake.check import Report, check, heard_as
from idiolect.child import Reporter
from idiolect.errors import UsageError
from tests.training.samples import write_encoded, write_wav
from training.audio import decode
from training.decode import CheckpointTranscriber
from training.quality import SURE_OF_LANGUAGE

pytestmark = pytest.mark.slow


def look(folder: Path) -> Report:
    return check(folder, "en", Reporter())


@pytest.fixture
def damaged(voices: Path, tmp_path: Path) -> Path:
    """A copy of a demo voice in which every kind of damage was done once, by the file's name."""
    folder = tmp_path / "damaged"
    shutil.copytree(voices / "human", folder)
    pcm = decode(folder / "digits_000.ogg")
    quiet = (1e-4 * np.random.default_rng(0).standard_normal(pcm.size)).astype(np.float32)
    at_s = np.arange(pcm.size) / 16_000
    tone = (0.04 * (np.sin(2 * np.pi * 50 * at_s) + np.sin(2 * np.pi * 100 * at_s) / 2)).astype(np.float32)
    said = "eight seven seven eight nine"
    for name, samples, text in (
        ("clipped", np.clip(80 * pcm, -1, 1), said),
        ("silent", quiet, said),
        ("quiet", 0.01 * pcm, f"{said} one"),
        ("noisy", pcm + 1000 * quiet, f"{said} two"),
        ("hum", pcm + tone, f"{said} three"),
        ("pause", np.concatenate([pcm, *([quiet] * 4), pcm]), f"{said} {said}"),
        ("fast", pcm[2000:], f"{said} " * 8),
        ("foreign", pcm[3000:], "שמונה שבע שבע שמונה תשע"),
        ("again", decode(write_encoded(tmp_path / "again.mp3", pcm, "libmp3lame")), said),
        ("copy", pcm[4000:], "something"),
        ("a copy", pcm[4000:], "something"),
    ):
        write_wav(folder / f"{name}.wav", samples.astype(np.float32))
        (folder / f"{name}.txt").write_text(text)
    whole = (folder / "quiet.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.wav").write_text("dear diary")
    (folder / "b.sync-conflict-20240101-120000-ABCDEFG.wav").write_bytes(whole)
    return folder


def test_every_damage_is_found_by_name_and_nothing_else(damaged: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in damaged.iterdir()}
    report = look(damaged)

    found = {Path(recording.path).name: recording for recording in report.recordings}
    for name, state, words in (
        ("clipped.wav", "rejected", "% of its samples are clipped"),
        ("silent.wav", "rejected", "there is no sound in it (-"),
        ("quiet.wav", "ready", "very quiet (-"),
        ("noisy.wav", "ready", "dB over the noise"),
        ("hum.wav", "ready", "mains hum"),
        ("pause.wav", "ready", "a pause of"),
        ("fast.wav", "rejected", "more than anyone can say"),
        ("foreign.wav", "ready", "100% of its letters are Hebrew"),
        ("digits_000.ogg", "ready", "nearly the same take as"),
        ("copy.wav", "duplicate", "the same sound as"),
        ("cut.wav", "waiting", "cut off"),
        ("letter.wav", "rejected", "not audio"),
    ):
        recording = found.pop(name)
        assert (recording.state, words in recording.reason) == (state, True), recording
    found.pop("a copy.wav")
    assert {name: r.reason for name, r in found.items() if r.reason and name != "again.wav"} == {}
    assert len(found) == 160
    assert [Path(path).name for path in report.conflicts] == ["b.sync-conflict-20240101-120000-ABCDEFG.wav"]
    assert {path: path.stat().st_mtime_ns for path in damaged.iterdir()} == before


@pytest.mark.parametrize("voice", ["human", "synthetic"])
def test_of_a_demo_voice_nothing_is_rejected(voices: Path, voice: str) -> None:
    report = look(voices / voice)

    assert report.counts()["rejected"] == report.counts()["waiting"] == 0
    assert [r.reason for r in report.recordings if r.reason and r.state == "ready"] == []


@pytest.mark.torch
def test_a_model_says_which_language_it_hears(
    voices: Path, nano: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(voices / "human" / "digits_000.ogg", tmp_path / "a.ogg")
    (tmp_path / "bad.wav").write_text("no audio")
    report = look(tmp_path)

    # From its folder the model is not known as nano. It was never taught to tell languages: it is not sure of any.
    heard, likely = CheckpointTranscriber(nano).language(decode(tmp_path / "a.ogg"))
    assert 0 < likely < SURE_OF_LANGUAGE
    assert heard_as(report, str(nano), "de", cache, Reporter()) == report

    monkeypatch.setattr("training.quality.SURE_OF_LANGUAGE", 0.0)
    told = heard_as(report, str(nano), "de" if heard != "de" else "en", cache, Reporter()).recordings
    assert f"sounds like {heard!r} ({likely:.0%} sure)" in told[0].reason
    assert told[1] == report.recordings[1]
    assert heard_as(report, str(nano), heard, cache, Reporter()) == report
    with pytest.raises(UsageError, match="nano knows only English"):
        heard_as(report, "nano", "de", cache, Reporter())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        look(tmp_path / "nowhere")


def test_the_command_needs_no_daemon_and_shows_any_name(voices: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    shutil.copy(voices / "human" / "digits_000.ogg", folder / "[red]\x1b[2J\nnext.ogg")
    command = [sys.executable, "-m", "daemon.cli", "--home", str(tmp_path / "home"), "check", str(folder)]

    plain = subprocess.run(command, capture_output=True, text=True)
    assert (plain.returncode, "\x1b" in plain.stdout) == (0, False)
    assert "no text yet" in plain.stdout
    assert "1 waiting" in plain.stdout

    (folder / "bad.wav").write_text("no audio")
    told = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert told.returncode == 1
    assert json.loads(told.stdout)["counts"] == {
        "ready": 0,
        "waiting": 1,
        "rejected": 1,
        "duplicate": 0,
        "remarked": 0,
    }
