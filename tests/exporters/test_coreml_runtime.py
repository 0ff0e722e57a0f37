"""WhisperKit's loop and its rules, and nano's packages saying what nano says."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from exporters.coreml_runtime import NOT_CHECKED, WhisperKit, follow_timestamp_rules, greedy
from exporters.coreml_runtime import open as open_coreml
from idiolect.errors import ArtifactError, UsageError
from idiolect.transcriber import DecodingOptions
from idiolect.whisper import special_tokens
from tests.exporters.helpers import NEEDS_COREML

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

SPECIAL = special_tokens(51_865)
PROMPT = SPECIAL.prompt("en")
BEGIN = SPECIAL.timestamp_begin


class _Script:
    """Stands in for a decoder: likes the given token at each index; remembers what it was told."""

    def __init__(self, likes: dict[int, int], otherwise: int = 7) -> None:
        self.likes, self.otherwise = likes, otherwise
        self.heard: list[int] = []

    def __call__(self, token: int, index: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        assert index == len(self.heard)
        self.heard.append(token)
        logits = np.zeros(SPECIAL.n_vocab, np.float32)
        logits[self.likes.get(index, self.otherwise)] = 20
        return logits


def test_the_prompt_is_forced_and_what_follows_is_fed_back() -> None:
    step = _Script({3: 11, 4: 12, 5: SPECIAL.eot})
    assert greedy(step, PROMPT, SPECIAL) == [11, 12]
    assert step.heard == [*PROMPT, 11, 12]


def test_a_loop_ends_where_whisperkit_ends_it() -> None:
    step = _Script({})
    assert greedy(step, PROMPT, SPECIAL) == [7] * (223 - len(PROMPT))
    assert len(step.heard) == 223


def test_end_of_text_inside_the_prompt_ends_everything() -> None:
    assert greedy(_Script({1: SPECIAL.eot}), PROMPT, SPECIAL) == []


def test_a_preferred_first_timestamp_replaces_the_forced_one() -> None:
    prompt = [*SPECIAL.prompt("en", timestamps=True), BEGIN]
    step = _Script({2: BEGIN + 9, 3: 11, 4: BEGIN + 20, 5: SPECIAL.eot})
    assert greedy(step, prompt, SPECIAL, timestamps=True) == [11, BEGIN + 20]
    assert step.heard == [*prompt[:-1], BEGIN + 9, 11, BEGIN + 20]


@pytest.mark.parametrize(
    ("sampled", "allowed", "forbidden"),
    [
        ([], [1, BEGIN, BEGIN + 5], [SPECIAL.no_timestamps]),
        ([1], [1, BEGIN, SPECIAL.eot], [SPECIAL.no_timestamps]),
        ([BEGIN], [1, SPECIAL.eot], [BEGIN, BEGIN + 5]),
        ([1, BEGIN + 5], [SPECIAL.eot, BEGIN + 5, BEGIN + 6], [1, BEGIN, BEGIN + 4]),
        ([1, BEGIN + 5, BEGIN + 5], [1, SPECIAL.eot], [BEGIN + 5, BEGIN + 6]),
        ([1, BEGIN + 5, BEGIN + 5, 2], [1, BEGIN + 6], [BEGIN, BEGIN + 5]),
    ],
)
def test_timestamp_rules(sampled: list[int], allowed: list[int], forbidden: list[int]) -> None:
    prompt = [*SPECIAL.prompt("en", timestamps=True), BEGIN]
    logits = np.full(SPECIAL.n_vocab, -50, np.float32)
    logits[[1, SPECIAL.eot]] = 9  # a word outweighs all timestamps together
    follow_timestamp_rules(logits, [*prompt, *sampled], len(prompt), SPECIAL)
    assert np.isfinite(logits[allowed]).all()
    assert np.isneginf(logits[forbidden]).all()


def test_many_likely_timestamps_outweigh_one_word() -> None:
    prompt = [*SPECIAL.prompt("en", timestamps=True), BEGIN]
    logits = np.full(SPECIAL.n_vocab, -50, np.float32)
    logits[1], logits[BEGIN:] = 1, 0
    follow_timestamp_rules(logits, [*prompt, 1], len(prompt), SPECIAL)
    assert int(logits.argmax()) == BEGIN


@pytest.fixture(scope="module")
def model(nano_coreml: Path) -> WhisperKit:
    return open_coreml(nano_coreml, threads=1)


@pytest.fixture(scope="module")
def clips(voices: Path) -> list[Pcm]:
    from training.audio import decode

    names = [f"human/digits_{i:03}.ogg" for i in range(3)] + [f"synthetic/clip{i:03}.ogg" for i in range(3)]
    return [decode(voices / name) for name in names]


class TestNano:
    pytestmark = NEEDS_COREML

    def test_f16_says_what_the_checkpoint_says(self, nano: Path, model: WhisperKit, clips: list[Pcm]) -> None:
        from training.decode import CheckpointTranscriber

        options = DecodingOptions(audio_context="full")
        expected = [answer.text for answer in CheckpointTranscriber(nano).transcribe_many(clips, options)]
        answers = list(model.transcribe_many(clips, options))
        assert [answer.text for answer in answers] == expected
        assert len(set(expected)) == len(clips)
        assert [answer.duration_s for answer in answers] == [len(pcm) / 16_000 for pcm in clips]

    def test_figures(self, nano_coreml: Path, model: WhisperKit) -> None:
        assert model.name == nano_coreml.name
        assert model.runtime.startswith("Core ML program in torch 2.")
        assert model.peak_memory_bytes() > 50e6
        assert model.not_checked == (() if sys.platform == "darwin" else (NOT_CHECKED,))

    def test_timestamps_are_not_shown(self, model: WhisperKit, clips: list[Pcm]) -> None:
        stamped = model.transcribe(clips[0], DecodingOptions(timestamps=True))
        assert stamped.text.split()[:3] == model.transcribe(clips[0]).text.split()[:3]
        assert "<|" not in stamped.text

    def test_what_cannot_be_heard_is_refused(self, model: WhisperKit, clips: list[Pcm]) -> None:
        with pytest.raises(UsageError, match="no language 'klingon'"):
            model.transcribe(clips[0], DecodingOptions(language="klingon"))
        for wrong in (np.zeros((2, 9), np.float32), np.zeros(9, np.int16)):
            with pytest.raises(UsageError, match="PCM of shape"):
                model.transcribe(wrong)  # type: ignore[arg-type]
        assert model.transcribe(np.zeros(0, np.float32)).duration_s == 0

    def test_on_a_mac_core_ml_itself_is_asked(
        self, nano_coreml: Path, model: WhisperKit, clips: list[Pcm], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Our evaluator stands in for what only a Mac has, and takes what Core ML would."""
        import coremltools as ct

        from exporters.coreml_check import check_coreml
        from exporters.mil import Program
        from exporters.whisperkit import contract

        class MLModel:
            def __init__(self, path: str) -> None:
                info = check_coreml(nano_coreml)
                self._program = Program(Path(path), {"encoder_output_embeds"})
                self._contract = contract(Path(path).stem, info.dims, info.alignment)

            def predict(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
                given = [(name, value.shape, value.dtype.name) for name, value in inputs.items()]
                assert sorted(given) == sorted((f.name, f.shape, f.dtype) for f in self._contract.inputs)
                found = self._program(inputs)
                return {f.name: found[f.name].astype(f.dtype) for f in self._contract.outputs}

        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(ct.models, "MLModel", MLModel)
        asked = open_coreml(nano_coreml)
        assert asked.runtime.startswith("Core ML on macOS")
        assert asked.transcribe(clips[0]).text == model.transcribe(clips[0]).text

    def test_a_damaged_folder_is_not_opened(self, nano_coreml: Path, tmp_path: Path) -> None:
        import shutil

        folder = shutil.copytree(nano_coreml, tmp_path / "m")
        os.truncate(folder / "TextDecoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin", 5_000_000)
        with pytest.raises(ArtifactError, match="too early"):
            open_coreml(folder)
