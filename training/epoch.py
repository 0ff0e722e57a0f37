"""An epoch: which clips are heard together, in which audio context, and in which batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from idiolect.whisper import MAX_POSITIONS, MAX_TEXT_POSITIONS
from training.examples import Example, draw_contexts
from training.features import plan_batches
from training.recipe import Settings

JOINED_SHARE = 0.8  # of the window and of the text that two clips may fill: speech is stretched, words are replaced
FOLLOWERS_TRIED = 8


@dataclass(frozen=True)
class Turn:
    """What is heard at once: the indices of one clip, or of two said one after the other, and the audio context that
    they get, in encoder positions."""

    clips: tuple[int, ...]
    context: int


def plan_epoch(examples: Sequence[Example], settings: Settings, rng: random.Random) -> list[list[Turn]]:
    """Every clip's turn, in batches of similar length; `join_share` of the clips are followed by another one."""
    joins = settings.join_share or 0.0
    said = [_followed(examples, i, rng) if joins and rng.random() < joins else (i,) for i in range(len(examples))]
    positions = [sum(examples[index].positions for index in clips) for clips in said]
    contexts = draw_contexts(positions, settings.full_share or 0.0, settings.longer_share or 0.0, rng)
    batches = plan_batches(contexts, settings.batch_size or 1, settings.position_budget, rng)
    return [[Turn(said[i], contexts[i]) for i in batch] for batch in batches]


def _followed(examples: Sequence[Example], index: int, rng: random.Random) -> tuple[int, ...]:
    """A clip and one drawn to follow it; alone where a few drawn did not fit."""
    for _ in range(FOLLOWERS_TRIED):
        follower = rng.randrange(len(examples))
        first, second = examples[index], examples[follower]
        if (
            first.language == second.language
            and first.positions + second.positions <= JOINED_SHARE * MAX_POSITIONS
            and len(first.tokens) + len(second.tokens) <= JOINED_SHARE * MAX_TEXT_POSITIONS
        ):
            return index, follower
    return (index,)
