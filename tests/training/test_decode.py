"""Greedy decoding of the nano checkpoint against transformers' own generation, at every context."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from idiolect.errors import CheckpointError, JobError, UsageError
from idiolect.transcriber import DecodingOptions
from tests.training.speech import shipped
from training.decode import CheckpointTranscriber, load_model

pytestmark = pytest.mark.torch


def test_full_context_says_what_transformers_says(nano: Path, voices: Path) -> None:
    import torch
    from transformers import WhisperFeatureExtractor

    clips = shipped(voices, "human", 4)
    model, tokenizer = load_model(nano)
    extract = WhisperFeatureExtractor.from_pretrained(nano)
    features = extract([pcm for _, pcm, _ in clips], sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        tokens = model.generate(
            features, language="en", task="transcribe", return_timestamps=False, begin_suppress_tokens=None
        )
    expected = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    ours = CheckpointTranscriber(nano).transcribe_many(
        [pcm for _, pcm, _ in clips], DecodingOptions(audio_context="full")
    )
    assert [answer.text for answer in ours] == expected


def test_a_cut_context_hears_the_same_words_and_answers_in_order(nano: Path, voices: Path) -> None:
    from training.scoring import error_rates

    clips = shipped(voices, "human", 12)
    transcriber = CheckpointTranscriber(nano)
    answers = list(transcriber.transcribe_many([pcm for _, pcm, _ in clips]))
    assert [answer.duration_s for answer in answers] == [len(pcm) / 16_000 for _, pcm, _ in clips]
    assert error_rates([text for _, _, text in clips], [answer.text for answer in answers]).wer < 0.3
    one = transcriber.transcribe(clips[3][1])
    assert one.text == answers[3].text
    assert transcriber.peak_memory_bytes() > 50_000_000


def test_timestamps_are_not_part_of_the_text(nano: Path, voices: Path) -> None:
    ((_, pcm, _),) = shipped(voices, "human", 1)
    answer = CheckpointTranscriber(nano).transcribe(pcm, DecodingOptions(timestamps=True))
    assert answer.text
    assert "<|" not in answer.text


def test_an_unknown_language_is_refused_by_name(nano: Path, voices: Path) -> None:
    ((_, pcm, _),) = shipped(voices, "human", 1)
    with pytest.raises(UsageError, match="'klingon'"):
        CheckpointTranscriber(nano).transcribe(pcm, DecodingOptions("klingon"))


def test_a_damaged_checkpoint_is_refused_by_folder(nano: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(nano, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=str(folder)):
        load_model(folder)


def test_a_model_that_memory_does_not_hold_is_not_called_damaged(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import WhisperForConditionalGeneration

    def none_left(*places: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(WhisperForConditionalGeneration, "from_pretrained", none_left)
    with pytest.raises(JobError, match=f"out of memory: {nano} does not fit"):
        load_model(nano)


def test_a_checkpoint_that_lacks_a_tensor_or_holds_none_is_no_model(nano: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(nano, tmp_path / "model")
    whole = load_file(folder / "model.safetensors")
    name = "model.encoder.layers.1.fc1.weight"
    save_file({k: v for k, v in whole.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 tensors are missing, such as {name}"):
        load_model(folder)
    save_file({**whole, name: torch.full_like(whole[name], torch.nan)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} holds values that are not numbers"):
        load_model(folder)
