"""Words are found where they lie, and sentences made of them hold together."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from training.examples import Example
from training.splicing import Splicer, align

pytestmark = pytest.mark.torch


def likely(path: list[int], labels: int) -> np.ndarray:
    """(positions, labels) log-probabilities of a head that is sure of `path`."""
    probabilities = np.full((len(path), labels), 0.01, np.float32)
    probabilities[np.arange(len(path)), path] = 1.0
    return np.log(probabilities)


def test_labels_are_found_where_they_are_heard() -> None:
    path = [0, 1, 1, 0, 2, 0, 2, 2, 0]
    assert align(likely(path, 3), [1, 2, 2]) == [(1, 3), (4, 5), (6, 8)]
    assert align(likely(path, 3), [1, 2])[0] == (1, 3)


def test_what_does_not_fit_is_not_aligned() -> None:
    assert align(likely([1, 2], 3), [1, 2]) == [(0, 1), (1, 2)]
    assert align(likely([1, 2], 3), [1, 1]) == []  # a blank must stand between
    assert align(likely([1, 2], 3), []) == []


LETTERS = {letter: label for label, letter in enumerate(" abcdef", start=1)}


def example(text: str, seed: int) -> Example:
    """Each letter 10 frames of its own loudness, each space 10 quiet frames."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    loud = torch.tensor([-8.0 if letter == " " else LETTERS[letter] / 10 for letter in text]).repeat_interleave(10)
    mel = (loud.expand(80, -1) + torch.rand(80, len(loud), generator=generator) / 100).half()
    words = tuple((100 + LETTERS[word[0]], 200 + len(word)) for word in text.split())
    tokens = tuple(token for word in words for token in word)
    return Example(text, mel, tokens, "en", len(loud) / 100 - 0.1, len(loud) / 100, words, text)


def heard(clip: Example) -> np.ndarray:
    path = [LETTERS[letter] for letter in clip.name for _ in range(5)]
    path[4::5] = [0] * len(clip.name)
    return likely(path, len(LETTERS) + 1)


def splicer(*texts: str, new: set[int] = frozenset()) -> Splicer:  # type: ignore[assignment]
    found = Splicer([example(text, seed) for seed, text in enumerate(texts)], new)
    found.cut(heard, lambda text: [LETTERS[letter] for letter in text])
    return found


def test_cuts_lie_in_the_quiet_between_words() -> None:
    found = splicer("abc de fab", "cab")
    assert [0 <= cut <= 100 for cut in found.cuts[0]] == [True] * 4
    first, second = found.cuts[0][1:3]
    assert 30 <= first < 40
    assert 60 <= second < 70
    assert found.cuts[1] == []  # one word cannot be replaced


def test_a_spliced_sentence_says_what_its_text_says() -> None:
    texts = ("abc de fab", "cab ff bed", "dad ace bee")
    found = splicer(*texts)
    changed = 0
    for seed in range(60):
        clip = found.spliced(seed % 3, random.Random(seed))
        before, now = texts[seed % 3].split(), clip.letters.split()
        assert sum(a != b for a, b in zip(before, now, strict=True)) <= 1
        assert clip.tokens == tuple(token for word in clip.words for token in word)
        assert [word[0] - 100 for word in clip.words] == [LETTERS[word[0]] for word in now]
        assert [word[1] - 200 for word in clip.words] == [len(word) for word in now]
        assert abs(clip.mel.shape[1] - 10 * len(clip.letters)) <= 20
        assert clip.speech_end_s == pytest.approx(clip.mel.shape[1] / 100 - 0.1)
        loud = clip.mel.float().mean(dim=0) > -4
        assert sum(before < after for before, after in pairwise([False, *loud.tolist()])) == 3
        changed += before != now
    assert changed > 30


def test_a_new_word_mostly_gives_way_to_another() -> None:
    texts = ("abc de fab", "cab ede bed", "dad fe bee", "bac add cab")
    new = {100 + LETTERS[letter] for letter in "ef"}  # "fab", "ede", "fe"; of them "ede" and "fe" inside a sentence
    found = splicer(*texts, new=new)
    said = [found.spliced(2, random.Random(seed)).letters for seed in range(300)]
    assert said.count("dad ede bee") > 70
    said = [found.spliced(3, random.Random(seed)).letters for seed in range(300)]
    assert len({text.split().index(word) for text in said for word in ("ede", "fe") if word in text.split()}) == 3


def test_a_sentence_that_would_be_too_long_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = splicer("ab cd ef", "abc bcd cde")
    spliced = [found.spliced(0, random.Random(seed)).tokens for seed in range(20)]
    assert any(tokens != example("ab cd ef", 0).tokens for tokens in spliced)
    monkeypatch.setattr("training.splicing.MAX_CLIP_TOKENS", 5)
    assert {found.spliced(0, random.Random(seed)).tokens for seed in range(20)} == {example("ab cd ef", 0).tokens}


def test_cuts_survive_a_restart() -> None:
    texts = ("abc de fab", "cab ff bed")
    first, again = splicer(*texts), Splicer([example(text, seed) for seed, text in enumerate(texts)], set())
    assert again.spliced(0, random.Random(1)).letters == texts[0]
    again.restore(first.cuts)
    for seed in range(10):
        assert again.spliced(0, random.Random(seed)).tokens == first.spliced(0, random.Random(seed)).tokens
