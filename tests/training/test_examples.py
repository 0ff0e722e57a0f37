"""Targets with and without timestamps, contexts, and the clips that cannot teach."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from idiolect.errors import DatasetError
from idiolect.whisper import special_tokens
from training.examples import IGNORED, ExampleMaker, collate, draw_contexts, possible_tokens, stretched

pytestmark = pytest.mark.torch
SPECIAL = special_tokens(51_865)


@pytest.fixture(scope="module")
def make(nano: Path) -> ExampleMaker:
    from transformers import WhisperTokenizerFast

    return ExampleMaker(WhisperTokenizerFast.from_pretrained(nano), SPECIAL, 80)


def _speech(seconds: float, silence_s: float = 0.0) -> np.ndarray:
    loud = np.random.default_rng(1).normal(0, 0.1, round(seconds * 16_000))
    return np.concatenate([loud, np.zeros(round(silence_s * 16_000))]).astype(np.float32)


def test_a_target_without_timestamps_learns_text_and_end(make: ExampleMaker) -> None:
    example = make("a", _speech(1.0), "seven six", "en")
    inputs, labels = collate([example], SPECIAL, [False])
    assert inputs[0, :4].tolist() == [50258, 50259, 50359, 50363]
    assert labels[0, :3].tolist() == [IGNORED] * 3
    assert labels[0, 3:].tolist() == [*example.tokens, SPECIAL.eot]


def test_a_target_with_timestamps_ends_where_the_speech_ends(make: ExampleMaker) -> None:
    example = make("a", _speech(1.0, silence_s=1.0), "seven", "en")
    assert example.speech_end_s == pytest.approx(1.0, abs=0.05)
    _, labels = collate([example], SPECIAL, [True])
    learnt = [token for token in labels[0].tolist() if token != IGNORED]
    assert learnt[0] == SPECIAL.timestamp_begin
    assert learnt[-2] == pytest.approx(SPECIAL.timestamp_begin + 50, abs=3)
    assert learnt[-1] == SPECIAL.eot


@pytest.mark.parametrize("timed", [False, True])
def test_targets_hold_only_tokens_that_were_foreseen(make: ExampleMaker, timed: bool) -> None:
    example = make("a", _speech(12.0), "seven six", "de")
    foreseen = possible_tokens(example, SPECIAL, 0.12, timed)
    for factor in (0.88, 0.93, 1.0, 1.12):
        inputs, labels = collate([stretched(example, factor)], SPECIAL, [timed])
        learnt = set(labels[labels != IGNORED].tolist())
        assert {*inputs[0].tolist(), *learnt} <= foreseen
    assert len(foreseen) < 200


def test_padding_carries_no_loss(make: ExampleMaker) -> None:
    short, long = make("a", _speech(1.0), "one", "en"), make("b", _speech(1.0), "one two three four five", "en")
    inputs, labels = collate([short, long], SPECIAL, [False, False])
    assert inputs.shape == labels.shape
    assert labels[0, 3 + len(short.tokens) + 1 :].eq(IGNORED).all()


@pytest.mark.parametrize(
    ("pcm", "text", "language", "reason"),
    [
        (_speech(31.0), "too long", "en", "at most 30 s"),
        (np.zeros(16_000, np.float32), "nothing", "en", "silent"),
        (np.full(16_000, np.nan, np.float32), "not a number", "en", "not numbers"),
        (_speech(1.0), "‱" * 400, "en", "tokens"),
        (_speech(1.0), "hello", "klingon", "klingon"),
    ],
)
def test_a_clip_that_cannot_teach_says_why(
    make: ExampleMaker, pcm: np.ndarray, text: str, language: str, reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        make("a", pcm, text, language)


def test_most_contexts_are_the_clips_own() -> None:
    contexts = draw_contexts([100] * 5_000, 0.06, 0.1, random.Random(0))
    own = sum(100 <= context <= 132 for context in contexts) / 5_000
    full = sum(context == 1500 for context in contexts) / 5_000
    assert own == pytest.approx(0.84, abs=0.02)
    assert full == pytest.approx(0.06, abs=0.01)
    assert min(contexts) >= 100
