"""Rates, recall, loops and intervals on cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from training import scoring


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hello, World!", "hello world"),
        ("it's 5 o'clock", "it s 5 o clock"),
        ("[music] so (laughs) what", "so what"),
        ("ＦＵＬＬ width", "full width"),
        ("שבת שלום", "שבת שלום"),
        ("", ""),
    ],
)
def test_the_basic_normaliser_keeps_only_words(text: str, normal: str) -> None:
    assert scoring.basic_normalize(text) == normal


@pytest.mark.torch
def test_the_basic_normaliser_is_whispers() -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    whispers = BasicTextNormalizer()
    for text in ("Ça va? [noise] İstanbul (x) a—b", "tab\tand\nline", "“quotes” … 50 % of 3×4", "ﬁne <|0.00|> print"):
        assert scoring.basic_normalize(text).split() == whispers(text).split()


@pytest.mark.parametrize(
    ("reference", "hypothesis", "wer"),
    [("a b c d", "a x c d", 0.25), ("a b", "a b c", 0.5), ("a b", "", 1.0), ("", "", 0.0), ("", "ghost", 1.0)],
)
def test_error_rates_of_one_clip(reference: str, hypothesis: str, wer: float) -> None:
    assert scoring.error_rates([reference], [hypothesis]).wer == wer


def test_error_rates_weigh_clips_by_their_words() -> None:
    rates = scoring.error_rates(["one", "two three four"], ["won", "two three four"])
    assert rates.wer == pytest.approx(1 / 4)
    assert (rates.words, rates.substitutions, rates.deletions, rates.insertions) == (4, 1, 0, 0)


@pytest.mark.torch
def test_the_english_normaliser_joins_digits() -> None:
    assert scoring.english_wer(["seven three colour"], ["73 color"]) == 0.0
    assert scoring.error_rates(["seven three colour"], ["73 color"]).wer == 1.0


@pytest.mark.parametrize(
    ("text", "duration_s", "looping"),
    [
        ("remind me to call anna", 2.0, False),
        ("nine nine nine nine", 2.0, False),  # said in a phone number
        ("thank you thank you thank you thank you", 3.0, True),
        ("no " * 9, 6.0, True),
        ("word " + " ".join(str(i) for i in range(60)), 2.0, True),  # nobody says 60 words in 2 s
        ("", 2.0, False),
    ],
)
def test_loops_are_repeats_and_impossible_lengths(text: str, duration_s: float, looping: bool) -> None:
    assert scoring.is_loop(text, duration_s) is looping


def test_the_interval_of_a_sure_difference_leaves_zero_out() -> None:
    mean, low, high = scoring.paired_bootstrap([0] * 30, [2] * 30, [5] * 30)
    assert mean == pytest.approx(-0.4)
    assert low == pytest.approx(-0.4)
    assert high == pytest.approx(-0.4)


def test_the_interval_of_noise_holds_zero() -> None:
    mean, low, high = scoring.paired_bootstrap([1, 0] * 15, [0, 1] * 15, [5] * 30)
    assert mean == 0
    assert low < 0 < high


def test_no_words_no_difference() -> None:
    assert scoring.paired_bootstrap([0], [0], [0]) == (0.0, 0.0, 0.0)


def test_the_standard_error_is_that_of_clips() -> None:
    spread, together = [1] * 10, [0] * 9 + [10]
    assert scoring.ratio(spread, [10] * 10) == (0.1, 0.0)
    assert scoring.ratio(together, [10] * 10) == pytest.approx((0.1, 0.1))
    assert scoring.ratio([1], [4]) == (0.25, math.inf)
    assert scoring.ratio([], []) == scoring.ratio([0, 0], [0, 0]) == (0.0, math.inf)


def test_recall_counts_occurrences_clip_by_clip() -> None:
    references = ["the mazgan is new", "mazgan and mazgan", "no such word"]
    assert scoring.term_recall("mazgan", references, ["the Mazgan is new", "mazgan and moscow", "mazgan"]) == (2, 3)


def test_a_term_may_have_several_words_and_is_no_part_of_another() -> None:
    said = ["Machine-learning is machine learning", "machine learnings"]
    assert scoring.occurrences("Machine Learning!", said) == [2, 0]
    assert scoring.term_recall("c++", ["use c++ now", "cat"], ["use c now", "c"]) == (1, 1)


def test_words_are_aligned_as_they_are_counted() -> None:
    places = scoring.align("call anna now please", "call ann, now pretty please!")
    assert [(*place, place.operation) for place in places] == [
        ("call", "call", "equal"),
        ("anna", "ann", "substitute"),
        ("now", "now", "equal"),
        ("", "pretty", "insert"),
        ("please", "please", "equal"),
    ]
    assert scoring.align("a b", "") == (("a", ""), ("b", ""))
    assert scoring.align("", "ghost") == (("", "ghost"),)


def test_missed_terms_are_frequent_and_mostly_unheard() -> None:
    references = ["the arnona is paid", "arnona again", "more arnona", "rare zeroconf"]
    heard = ["the iron is paid", "arnona again", "more iron", "rare config"]
    assert scoring.missed_terms(references, heard) == ["arnona"]
