"""Training by hand: several models from one set of recordings."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.work import direct
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import DatasetError, JobStopped, UsageError
from idiolect.whisper import RATE_HZ
from tests.training.samples import sound, write_wav
from training import mel_cache
from training.audio import decode, pcm_sha256
from training.clips import Clip
from training.evaluate import EvaluationClip
from training.finetune import Settings
from training.trained_on import read_trained_on


def test_each_model_has_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "me"
    assert direct.output_folders(["tiny"], out) == [out]
    assert direct.output_folders(["tiny", "openai/whisper-small"], out) == [out / "tiny", out / "whisper-small"]
    with pytest.raises(UsageError, match="called alike"):
        direct.output_folders(["tiny", "mine/tiny"], out)
    (out / "small").mkdir(parents=True)
    with pytest.raises(UsageError, match="small exists already"):
        direct.output_folders(["tiny", "small"], out)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*/file/mine/me: .*/file is no folder"):
        direct.output_folders(["tiny"], tmp_path / "file" / "mine" / "me")


def test_what_is_held_out() -> None:
    clips = [Clip(Path(f"{number}.wav"), f"call {number}") for number in range(100)]
    counts = {side: len(found) for side, found in direct._sides(clips, all_teach=False).items()}
    assert 0 < counts["held-out"] < 50
    sides = direct._sides(clips, all_teach=True)  # --val-data says what to measure on
    assert not sides["held-out"]
    assert sides["select"]
    clips[0] = dataclasses.replace(clips[0], side="held-out")  # in validation/
    assert direct._sides(clips, all_teach=False)["held-out"] == clips[:1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    reporter = Reporter()
    with direct.stopping_on_interrupt(reporter):
        os.kill(os.getpid(), number)
        assert reporter.stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


@given(st.integers(1, 75 * RATE_HZ))
def test_no_sample_of_long_audio_is_lost(n_samples: int) -> None:
    pcm = np.arange(n_samples, dtype=np.float32)
    pieces = list(direct.windows(pcm))
    assert np.array_equal(np.concatenate(pieces), pcm)
    assert all(20 * RATE_HZ <= len(piece) <= 30 * RATE_HZ for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= 30 * RATE_HZ


@pytest.mark.parametrize("pause_s", [20.0, 24.37, 29.5])
def test_long_audio_is_cut_in_silence(pause_s: float) -> None:
    pcm = np.ones(45 * RATE_HZ, np.float32)
    start = round(pause_s * RATE_HZ)
    pcm[start : start + RATE_HZ // 2] = 0
    first, second = direct.windows(pcm)
    assert first[-1] == second[0] == 0


@pytest.mark.torch
def test_a_stopped_command_goes_on_and_two_models_share_the_features(
    nano: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []
    write = mel_cache._write

    def counted(path: Path, data: bytes) -> None:
        computed.append(path)
        write(path, data)

    monkeypatch.setattr(mel_cache, "_write", counted)
    _recordings(voices, tmp_path / "data")
    write_wav(tmp_path / "data" / "train" / "silent.wav", np.zeros(RATE_HZ, np.float32))
    (tmp_path / "data" / "train" / "silent.txt").write_text("nothing at all")
    heard: list[str] = []
    twin = str(shutil.copytree(nano, tmp_path / "twin"))
    stages: list[str] = []

    def train(stop_at: str = "", steps: int = 1) -> list[direct.Trained]:
        def see(message: Message) -> None:
            heard.append(message.data.get("message", ""))
            if message.kind == "stage":
                stages.append(message.data["name"])
                if stages[-1] == stop_at:
                    reporter.stop.set()

        reporter = CallbackReporter(see)
        settings = Settings(max_steps=steps, epochs=1, batch_size=4, full_share=0.0, threads=1)
        places = tmp_path / "data", None, tmp_path / "me"
        return direct.train(["nano", twin], *places, settings, "en", tmp_path / "cache", reporter)

    card = tmp_path / "me" / "nano" / "README.md"
    for stop_at, said in (("score nano", "It was not measured."), (f"train {twin}", "WER on 2 held-out clips")):
        with pytest.raises(JobStopped):
            train(stop_at)
        assert said in card.read_text()
    with pytest.raises(UsageError, match="nano exists already"):
        train(steps=2)
    stages.clear()
    trained = train()
    assert "train nano" not in stages
    assert not list((tmp_path / "me").glob("*.state"))
    assert [len(each.evaluations) for each in trained] == [2, 2]
    assert [each.left_out for each in trained] == [
        ("train/silent.wav: the audio is silent; record it again; is the microphone on?",)
    ] * 2
    few, more = f"{tmp_path / 'data'}: clips to judge by: 2, with", f"put more into {tmp_path / 'data' / 'validation'}"
    assert any(line.startswith(few) and line.endswith(more) for line in heard)
    assert [each.outcome.checkpoint for each in trained] == [tmp_path / "me" / "nano", tmp_path / "me" / "twin"]
    assert len(list((tmp_path / "cache" / direct.MELS).glob("*/*.mel"))) == trained[0].outcome.clips == 4
    assert len(computed) == 4  # once for both models
    learnt = read_trained_on(tmp_path / "me" / "nano")
    assert len(learnt) == 5
    assert not any(pcm_sha256(decode(file)) in learnt for file in (tmp_path / "data" / "validation").glob("*.ogg"))
    assert "license: cc-by-sa-4.0" in card.read_text()
    assert f"{trained[0].evaluations[1].wer:.1%}" in card.read_text()
    with pytest.raises(UsageError, match="nano exists already"):
        train()


@pytest.mark.torch
def test_what_cannot_be_used_is_named_and_counted(nano: Path, tmp_path: Path) -> None:
    data, heard = tmp_path / "data", list[str]()
    (data / "validation").mkdir(parents=True)
    for name, pcm in {"silent": np.zeros(RATE_HZ, np.float32), "other": np.zeros(2 * RATE_HZ, np.float32)}.items():
        write_wav(data / f"{name}.wav", pcm)
        (data / f"{name}.txt").write_text(f"call {name}")
    (data / "torn.wav").write_bytes(b"no audio")
    (data / "torn.txt").write_text("call the office")
    shutil.copy(data / "other.wav", data / "latin.wav")
    (data / "latin.txt").write_bytes("café".encode("latin-1"))
    reporter = CallbackReporter(lambda message: heard.append(message.data.get("message", "")))
    settings = Settings(max_steps=1)
    with pytest.raises(DatasetError, match="none of 2 clips") as caught:
        direct.train(["nano"], data, None, tmp_path / "me", settings, "en", tmp_path / "cache", reporter)
    assert caught.value.hint.startswith("other.wav: the audio is silent; record it again")
    told = "\n".join(heard)
    assert "validation holds no recording with its text: a fifth of the others is held out" in told
    assert "left out torn.wav: not audio, or only the first bytes of it; taken are wav" in told
    latin = f"{data / 'latin.txt'}: the text is not UTF-8 (byte 3); save it again as UTF-8"
    assert f"left out latin.wav: {latin}" in told
    with pytest.raises(DatasetError, match="validation: no recording with its text"):
        direct.evaluation_clips(data, reporter)


def test_what_no_model_can_hear_is_not_scored(tmp_path: Path) -> None:
    for name, pcm in {"silent": np.zeros(RATE_HZ, np.float32), "long": sound(31.0), "good": sound(2.0)}.items():
        write_wav(tmp_path / f"{name}.wav", pcm)
        (tmp_path / f"{name}.txt").write_text(f"call {name}")
    write_wav(tmp_path / "talk.wav", np.zeros(4 * RATE_HZ, np.float32))
    (tmp_path / "talk.srt").write_text("1\n00:00:01,500 --> 00:00:03,000\ncall anna")
    heard: list[str] = []
    reporter = CallbackReporter(lambda message: heard.append(message.data.get("message", "")))
    assert [clip.name for clip in direct.evaluation_clips(tmp_path, reporter)] == ["good.wav"]
    assert "left out talk.wav at 1.3 s: the audio is silent; record it again; is the microphone on?" in heard
    assert "left out silent.wav: the audio is silent; record it again; is the microphone on?" in heard
    assert "left out long.wav: 31.0 s long, at most 30 s fit; cut it, or write cues in an .srt" in heard


def test_too_few_to_judge_by_are_told() -> None:
    heard: list[str] = []
    reporter = CallbackReporter(lambda message: heard.append(message.data["message"]))
    one = EvaluationClip("a.wav", sound(1.0), "call anna")
    direct.warn_of_few([one] * 30, Path("mine"), "record more", reporter)
    assert not heard
    direct.warn_of_few([], Path("mine"), "record more", reporter)
    direct.warn_of_few([one], Path("mine"), "record more", reporter)
    assert heard == [
        "mine: no held-out clips, the new model is not measured: record more",
        "mine: clips to judge by: 1, with 2 words, are too few (at least 10 and 60): record more",
    ]


@pytest.mark.torch
def test_what_was_learnt_is_not_scored(nano: Path, voices: Path, tmp_path: Path) -> None:
    _recordings(voices, tmp_path / "data")
    shutil.copy(tmp_path / "data" / "train" / "0.ogg", tmp_path / "data" / "validation" / "again.ogg")
    shutil.copy(tmp_path / "data" / "train" / "0.txt", tmp_path / "data" / "validation" / "again.txt")
    heard: list[str] = []
    reporter = CallbackReporter(lambda message: heard.append(message.data.get("message", "")))
    settings = Settings(max_steps=1, epochs=1, batch_size=4, full_share=0.0, threads=1)
    places = tmp_path / "data", None, tmp_path / "me"
    (trained,) = direct.train(["nano"], *places, settings, "en", tmp_path / "cache", reporter)
    assert [each.clips for each in trained.evaluations] == [2, 2]
    assert "left out 1 of 3 clips to judge by: they are also among those to learn from" in heard


def test_a_clip_is_called_by_its_place_in_the_folder() -> None:
    folder = Path("mine")
    assert direct._name(Clip(folder / "a" / "1.wav", "call"), folder) == "a/1.wav"
    assert direct._name(Clip(folder / "a" / "1.wav", "call", 61.25, 63.0), folder) == "a/1.wav at 61.2 s"


def _recordings(voices: Path, data: Path) -> None:
    """Four recordings in train/ and two in validation/."""
    rows = [json.loads(line) for line in (voices / "human" / "metadata.jsonl").read_text().splitlines()[:6]]
    for index, row in enumerate(rows):
        folder = data / ("validation" if index > 3 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(voices / "human" / row["file_name"], folder / f"{index}.ogg")
        (folder / f"{index}.txt").write_text(row["text"])
