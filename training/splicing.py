"""Sentences that were never said, out of one speaker's own words: a word of a clip replaced by another of theirs.

A small decoder learns which words stand together in somebody's few sentences, and then hears those words whatever is
said: "add kubernetes" becomes "add sugar" when all the shopping lists it was taught hold sugar. Where each word lies in
a clip is found by forced alignment with the letters' head (training.ctc), and cut where the voice is quietest nearby.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from idiolect.whisper import MAX_FRAMES
from training.examples import MAX_CLIP_TOKENS, Example

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

NEW_FOR_NEW_SHARE = 0.6  # where a clip holds words with tokens the stock model never used, one of them gives way to
# another such word: they are mostly names of things, and stand in the same places. Else any word gives way to any.
_SEARCH_FRAMES = 6  # a cut moves this far at most to the quietest place
_MIN_WORD_FRAMES = 6


@dataclass(frozen=True)
class _Word:
    letters: str
    tokens: tuple[int, ...]
    mel: torch.Tensor


class Splicer:
    """The words of `examples`, once `cut` has found them. `new_tokens` are those the stock model never used."""

    def __init__(self, examples: Sequence[Example], new_tokens: AbstractSet[int]) -> None:
        self._examples, self._new_tokens = examples, new_tokens
        self._all: list[str] = []
        self._new: list[str] = []
        self.cuts: list[list[int]] = []

    def cut(self, log_probs: Callable[[Example], NDArray[np.float32]], labels: Callable[[str], list[int]]) -> None:
        """Find every clip's words. `log_probs`: (positions, labels) of an example; `labels`: those of a text."""
        self.restore([_word_cuts(example, log_probs(example), labels(example.letters)) for example in self._examples])

    def restore(self, cuts: list[list[int]]) -> None:
        """Take the cuts that an earlier run found: for each example its words' bounds in frames, or nothing."""
        self.cuts = cuts
        self._said: dict[str, list[_Word]] = {}
        for example, bounds in zip(self._examples, cuts, strict=True):
            words = _words(example, bounds) if bounds else []
            for word in words[1:-1]:  # the first and the last hold the silence around the sentence
                self._said.setdefault(word.letters, []).append(word)
        self._all = sorted(self._said)
        self._new = [letters for letters in self._all if self._new_tokens & {*self._said[letters][0].tokens}]

    def spliced(self, index: int, rng: random.Random) -> Example:
        """The example with one of its words replaced; as it is where its words, or others, are not known."""
        example = self._examples[index]
        if not self.cuts or not self.cuts[index] or not self._all:
            return example
        words = _words(example, self.cuts[index])
        places = [place for place, word in enumerate(words) if self._new_tokens & {*word.tokens}]
        if places and self._new and rng.random() < NEW_FOR_NEW_SHARE:
            place, choice = rng.choice(places), self._new
        else:
            place, choice = rng.randrange(len(words)), self._all
        words[place] = rng.choice(self._said[rng.choice(choice)])
        return _joined(example, words)


def align(log_probs: NDArray[np.float32], labels: Sequence[int]) -> list[tuple[int, int]]:
    """First position and the one after the last of every label on CTC's likeliest path (Viterbi), blank being 0.

    `log_probs` is (positions, labels). Empty where there are fewer positions than the labels need.
    """
    import numpy as np

    states = np.zeros(2 * len(labels) + 1, np.int64)  # blanks between the labels
    states[1::2] = labels
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    if not labels or len(log_probs) < len(labels) + int((~may_skip[3::2]).sum()):
        return []
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    came = np.zeros((len(log_probs), len(states)), np.int8)  # how many states a step went on: 0, 1 or 2
    for position in range(1, len(log_probs)):
        one, two = np.full_like(score, -np.inf), np.full_like(score, -np.inf)
        one[1:], two[2:] = score[:-1], score[:-2]
        two[~may_skip] = -np.inf
        steps = np.stack([score, one, two])
        came[position] = steps.argmax(axis=0)
        score = steps.max(axis=0) + log_probs[position, states]
    state = len(states) - 1 if score[-1] > score[-2] else len(states) - 2
    path = np.zeros(len(log_probs), np.int64)
    for position in reversed(range(len(log_probs))):
        path[position] = state
        state -= int(came[position, state])
    bounds = (
        np.searchsorted(path, np.arange(1, len(states), 2), "left"),
        np.searchsorted(path, np.arange(1, len(states), 2), "right"),
    )
    return [(int(first), int(end)) for first, end in zip(*bounds, strict=True)]


def _word_cuts(example: Example, log_probs: NDArray[np.float32], labels: list[int]) -> list[int]:
    """Bounds of the example's words in mel frames, from 0 to its end; empty where they are not sure."""
    words = example.letters.split()
    spans = align(log_probs, labels) if len(words) == len(example.words) > 1 else []
    if not spans:
        return []
    loudness = example.mel.float().mean(dim=0)
    loudness = (loudness[:-2] + loudness[1:-1] + loudness[2:]) / 3  # of the frame after
    bounds, letter = [0], -1
    for word in words[:-1]:
        letter += len(word) + 1  # the space after the word
        middle = sum(spans[letter])  # two frames a position
        first = max(0, middle - 1 - _SEARCH_FRAMES)
        nearby = loudness[first : middle + _SEARCH_FRAMES]
        bounds.append(first + 1 + int(nearby.argmin()) if len(nearby) else middle)
    bounds.append(example.mel.shape[1])
    wide = all(end - begin >= _MIN_WORD_FRAMES for begin, end in pairwise(bounds))
    return bounds if wide else []


def _words(example: Example, bounds: Sequence[int]) -> list[_Word]:
    pieces = zip(example.letters.split(), example.words, bounds, bounds[1:], strict=False)
    return [_Word(letters, tokens, example.mel[:, begin:end]) for letters, tokens, begin, end in pieces]


def _joined(example: Example, words: Sequence[_Word]) -> Example:
    import torch

    mel = torch.cat([word.mel for word in words], dim=1)
    tokens = tuple(token for word in words for token in word.tokens)
    if mel.shape[1] > MAX_FRAMES or len(tokens) > MAX_CLIP_TOKENS:
        return example
    return replace(
        example,
        mel=mel,
        tokens=tokens,
        words=tuple(word.tokens for word in words),
        letters=" ".join(word.letters for word in words),
        speech_end_s=example.speech_end_s + (mel.shape[1] - example.mel.shape[1]) / 100,
    )
