"""Every clip has its turn, some followed by another, and none outgrows the window."""

from __future__ import annotations

import random

import pytest

from training.epoch import JOINED_SHARE, Turn, plan_epoch
from training.examples import Example, joined
from training.recipe import Settings

pytestmark = pytest.mark.torch
SETTINGS = Settings(batch_size=4, full_share=0.0, longer_share=0.0, join_share=0.5)


def example(name: str, positions: int = 100, tokens: int = 4, language: str = "en") -> Example:
    import torch

    mel = torch.full((80, 2 * positions), float(len(name))).half()
    words = tuple((token,) for token in range(tokens))
    return Example(name, mel, tuple(range(tokens)), language, positions / 50 - 0.2, positions / 50, words, name)


def turns(examples: list[Example], settings: Settings = SETTINGS, seed: int = 0) -> list[Turn]:
    return [turn for batch in plan_epoch(examples, settings, random.Random(seed)) for turn in batch]


def test_every_clip_has_one_turn_and_half_are_followed() -> None:
    planned = turns([example("a")] * 2_000)
    assert sorted(turn.clips[0] for turn in planned) == list(range(2_000))
    followed = [turn for turn in planned if len(turn.clips) == 2]
    assert len(followed) / 2_000 == pytest.approx(0.5, abs=0.05)
    assert all(200 <= turn.context <= 232 for turn in followed)
    assert all(100 <= turn.context <= 132 for turn in planned if turn not in followed)


def test_an_epoch_follows_from_its_seed() -> None:
    examples = [example("a", positions) for positions in range(50, 150)]
    assert turns(examples, seed=1) == turns(examples, seed=1) != turns(examples, seed=2)


def test_only_what_fits_and_is_of_one_language_is_joined() -> None:
    kinds = [("long", 1_000, 4, "en"), ("wordy", 100, 300, "en"), ("german", 100, 4, "de"), ("short", 100, 4, "en")]
    examples = [example(*kind) for kind in kinds] * 20
    pairs = [turn.clips for turn in turns(examples, Settings(batch_size=4, join_share=1.0)) if len(turn.clips) == 2]
    assert pairs
    for pair in pairs:
        first, second = (examples[index] for index in pair)
        assert first.language == second.language
        assert first.positions + second.positions <= JOINED_SHARE * 1_500
        assert len(first.tokens) + len(second.tokens) <= JOINED_SHARE * 448
    assert not any(len(turn.clips) == 2 for turn in turns([example("long", 1_000)] * 20))


def test_joined_clips_are_said_one_after_the_other() -> None:
    both = joined([example("one", 100), example("three", 60, tokens=2)])
    assert both.mel.shape == (80, 320)
    assert (both.mel[0, :200] == 3).all()
    assert (both.mel[0, 200:] == 5).all()
    assert both.tokens == (0, 1, 2, 3, 0, 1)
    assert both.words == ((0,), (1,), (2,), (3,), (0,), (1,))
    assert both.letters == "one three"
    assert both.speech_end_s == pytest.approx(3.0)
    assert both.duration_s == pytest.approx(3.2)
    alone = example("one")
    assert joined([alone]) is alone
