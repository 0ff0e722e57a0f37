import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.config import Config, Training
from daemon.paths import Paths
from daemon.work import texts
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import UsageError
from idiolect.transcriber import DecodingOptions
from tests.training.samples import write_wav
from training.audio import decode
from training.clips import read_folder
from training.transcripts import read_metadata

pytestmark = pytest.mark.torch


def run_of(paths: Paths, run_id: str, tier: str, state: str = "published") -> dict[str, Any]:
    (paths.runs / run_id / "checkpoint").mkdir(parents=True)
    return {"id": run_id, "tier": tier, "state": state}


def test_the_best_model_is_the_largest_published_then_the_largest_stock(tmp_path: Path) -> None:
    paths = Paths.at(tmp_path)
    config = Config(training=Training(tiers=("nano",)))
    assert texts.best_model([], paths, config) == "nano"

    runs = [run_of(paths, "run-0004", "small", "kept"), run_of(paths, "run-0003", "tiny")]
    runs += [run_of(paths, "run-0002", "base"), run_of(paths, "run-0001", "base")]
    assert texts.best_model(runs, paths, config) == str(paths.runs / "run-0002" / "checkpoint")

    with pytest.raises(UsageError, match="no model on this machine"):
        texts.best_model([], paths, Config(training=Training(tiers=("large-v3",))))


def test_drafts_are_written_once_and_count_when_accepted(voices: Path, cache: Path, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copy(voices / "human" / f"digits_00{number}.ogg", tmp_path / f"take {number}.ogg")
    (tmp_path / "take 0.txt").write_text("my own words")
    (tmp_path / "broken.wav").write_text("no audio")

    todo = texts.without_text(tmp_path)
    assert [path.name for path in todo] == ["broken.wav", "take 1.ogg", "take 2.ogg"]
    written = list(texts.draft(todo, "nano", DecodingOptions(), cache, Reporter()))
    assert [path.name for path in written] == ["take 1.draft.txt", "take 2.draft.txt"]
    assert len(written[0].read_text().split()) > 2
    assert [clip.path.name for clip in read_folder(tmp_path, lambda *_: None)] == ["take 0.ogg"]
    assert [path.name for path in texts.without_text(tmp_path)] == ["broken.wav"]

    (tmp_path / "take 2.txt").write_text("written since")
    assert [path.name for path in texts.accept(tmp_path)] == ["take 1.txt"]
    assert len(read_folder(tmp_path, lambda *_: None)) == 3


def test_a_long_recording_is_cut_by_its_transcript(voices: Path, cache: Path, tmp_path: Path) -> None:
    rows = list(read_metadata(voices / "human" / "metadata.jsonl").rows.items())[40:60]
    write_wav(tmp_path / "long.wav", np.concatenate([decode(voices / "human" / name) for name, _ in rows]))
    (tmp_path / "long.txt").write_text(" ".join(row.text for _, row in rows))
    command = [sys.executable, "-m", "daemon.cli", "--home", str(tmp_path / "home"), "align", str(tmp_path)]
    command += ["--model", "nano", "--json"]

    (found,) = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert found["kept_s"] > 0.8 * found["duration_s"]
    assert found["srt"] == str(tmp_path / "long.srt")
    clips = read_folder(tmp_path)
    assert len(clips) == found["cues"]
    assert sum(len(decode(clip.path, clip.start_s, clip.end_s)) for clip in clips) > 0.7 * 16_000 * found["duration_s"]

    before = (tmp_path / "long.srt").read_text()
    assert list(texts.align(tmp_path, "nano", DecodingOptions(), cache, Reporter())) == []  # it has cues now
    assert (tmp_path / "long.srt").read_text() == before

    (tmp_path / "long.txt").write_text("corrected")
    told: list[Message] = []
    assert list(texts.align(tmp_path, "nano", DecodingOptions(), cache, CallbackReporter(told.append))) == []
    (warned,) = [message.data["message"] for message in told if message.kind == "warning"]
    assert warned.startswith(f"{tmp_path / 'long.txt'} is newer than long.srt, whose cues count: delete long.srt")


def test_a_transcript_of_something_else_makes_no_cues(voices: Path, cache: Path, tmp_path: Path) -> None:
    names = [f"digits_{number:03d}.ogg" for number in range(16)]
    write_wav(tmp_path / "long.wav", np.concatenate([decode(voices / "human" / name) for name in names]))
    (tmp_path / "long.txt").write_text("the quick brown fox jumps over the lazy dog " * 6)

    (found,) = texts.align(tmp_path, "nano", DecodingOptions(), cache, Reporter())
    assert (found.cues, found.srt) == (0, None)
    assert not (tmp_path / "long.srt").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    for act in (texts.without_text, texts.accept):
        with pytest.raises(UsageError, match="no such folder"):
            act(tmp_path / "nowhere")
