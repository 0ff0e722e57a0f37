"""Intervals, verdicts, terms and labels on answers made up for it."""

from __future__ import annotations

import json

import pytest

from tests.training.parrots import compared
from training.compare import Verdict, labels, verdict
from training.promise import Facts
from training.vocabulary import Term, Vocabulary

SAID = [f"please bring the arnona letter number {n}" for n in "one two three four five six".split()] * 2
GOOD = list(SAID)
BAD = [text.replace("arnona", "iron owner") for text in SAID]
TERMS = Vocabulary((Term("arnona", "Hebrew"), Term("zeroconf", "technical")), "vocabulary.txt")


@pytest.mark.parametrize(
    ("low", "high", "clips", "words", "expected"),
    [
        (-0.2, -0.01, 50, 400, "better"),
        (-0.2, 0.0, 50, 400, "same"),
        (-0.1, 0.1, 50, 400, "same"),
        (0.01, 0.1, 50, 400, "worse"),
        (-0.2, -0.01, 9, 400, "too little to judge"),
        (-0.2, -0.01, 50, 59, "too little to judge"),
    ],
)
def test_the_interval_decides(low: float, high: float, clips: int, words: int, expected: Verdict) -> None:
    assert verdict(low, high, clips, words) == expected


def test_models_are_held_against_the_reference_in_the_order_asked() -> None:
    found = compared(SAID, {"bad": BAD, "good": GOOD, "bad again": BAD})
    verdicts = [result.versus and result.versus.verdict for result in found.results]
    assert verdicts == [None, "better", "same"]
    bad = found.results[0]
    assert bad.wer.rate == pytest.approx(2 / 7)
    assert bad.wer.low == pytest.approx(2 / 7)  # every clip has the same errors
    assert found.subject == 1
    assert [term.text for term in found.vocabulary.terms] == ["arnona"]  # what the reference missed
    assert [result.cer_versus and result.cer_versus.verdict for result in found.results] == verdicts
    assert found.results[1].cer_versus is not None
    assert found.results[1].cer_versus.mean == pytest.approx(-bad.cer.rate)
    assert found.results[1].wer.rate == 0
    assert found.results[1].wer.high == pytest.approx(0.043, abs=0.001)  # no error in 84 words is no proof of none


def test_the_words_that_matter_are_those_a_stock_model_misses() -> None:
    stock = {"stock": Facts("tiny", stock=True)}
    found = compared(SAID, {"mine": GOOD, "stock": BAD}, stock)
    assert [term.text for term in found.vocabulary.terms] == ["arnona"]
    assert found.vocabulary.source == "those that stock missed"
    assert compared(SAID, {"mine": GOOD, "stock": BAD}, stock, asked=1).vocabulary.terms == ()  # it came as a rival
    both = {**stock, "first": Facts("base", stock=True)}
    found = compared(SAID, {"first": GOOD, "stock": BAD}, both, reference=1)
    assert found.vocabulary.source == "those that stock missed"
    assert compared(SAID, {"mine": GOOD, "other": BAD}).vocabulary.terms == ()


def test_terms_are_counted_by_group_and_split_the_clips() -> None:
    said = [*SAID, *["remind me to call anna now please"] * 12]
    heard = [*BAD, *said[12:]]
    found = compared(said, {"bad": heard, "good": said}, vocabulary=TERMS)
    bad, good = found.results
    assert found.never_said() == ["zeroconf"]
    assert found.with_terms == 12
    assert {group: (r.heard, r.said) for group, r in found.groups(bad).items()} == {"Hebrew": (0, 12)}
    assert str(found.groups(good)["Hebrew"]) == "12 (100%)"
    assert bad.with_terms is not None
    assert bad.with_terms.rate == pytest.approx(2 / 7)
    assert bad.without_terms is not None
    assert bad.without_terms.rate == 0
    assert good.with_terms_versus is not None
    assert good.without_terms_versus is not None
    assert (good.with_terms_versus.verdict, good.without_terms_versus.verdict) == ("better", "same")


def test_terms_that_nobody_says_split_nothing() -> None:
    found = compared(SAID, {"bad": BAD}, vocabulary=Vocabulary((Term("zeroconf"),), "vocabulary.txt"))
    assert found.never_said() == ["zeroconf"]
    assert found.with_terms == 0
    assert found.results[0].with_terms is None
    assert found.groups(found.results[0]) == {}


def test_one_clip_has_no_interval_and_no_verdict() -> None:
    found = compared(SAID[:1], {"bad": BAD[:1], "good": GOOD[:1]})
    assert (found.results[0].wer.low, str(found.results[0].wer)) == (None, "28.6%")
    assert found.results[1].versus is not None
    assert found.results[1].versus.verdict == "too little to judge"


def test_the_worst_clips_come_first_and_clips_without_errors_never() -> None:
    heard = [SAID[0], "please bring", BAD[2], *SAID[3:]]
    worst = compared(SAID, {"model": heard}).results[0].worst
    assert [(clip.clip, clip.errors) for clip in worst] == [("1.wav", 5), ("2.wav", 2)]
    assert len(compared(SAID, {"model": BAD}).results[0].worst) == 10


def test_noise_is_held_against_the_model_itself_and_the_reference() -> None:
    found = compared(SAID, {"one": GOOD, "other": GOOD}, noisy={"one": BAD, "other": GOOD})
    one, other = found.results
    assert one.noise_loss is not None
    assert (one.noise_loss.verdict, one.noisy_versus) == ("worse", None)
    assert other.noisy_versus is not None
    assert other.noisy_versus.verdict == "better"


def test_the_promise_is_shown_where_both_sides_are_there() -> None:
    facts = {"me": Facts("tiny"), "base": Facts("base", stock=True), "nano": Facts("nano", stock=True)}
    found = compared(SAID, {"me": GOOD, "base": BAD, "nano": BAD}, facts)
    assert [(promise.tuned, promise.rival, promise.versus.verdict) for promise in found.promises] == [(0, 1, "better")]
    assert compared(SAID, {"me": GOOD, "nano": BAD}, facts).promises == ()


def test_json_keeps_its_shape_and_holds_the_rest() -> None:
    value = json.loads(
        json.dumps(compared(SAID, {"bad": BAD, "good": GOOD}, vocabulary=TERMS).to_json(), allow_nan=False)
    )
    assert [result["model"] for result in value["results"]] == ["bad", "good"]
    bad, good = value["results"]
    assert {"model", "clips", "wer", "cer", "wer_english", "normalizer", "loops", "rtf"} <= bad.keys()
    assert (bad["versus"], bad["cer_versus"]) == (None, None)
    assert (good["versus"]["verdict"], good["cer_versus"]["verdict"]) == ("better", "better")
    assert bad["terms"][0] == {"term": "arnona", "group": "Hebrew", "heard": 0, "said": 12}
    assert ["arnona", "iron", "substitute"] in bad["worst"][0]["alignment"] or [
        "arnona",
        "owner",
        "substitute",
    ] in bad["worst"][0]["alignment"]
    assert value["vocabulary"]["never_said"] == ["zeroconf"]
    assert (value["reference"], value["rivals"]) == ("bad", [])


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["nano", "models/me"], ["nano", "me"]),
        (["/a/me", "/b/me", "/b/c"], ["a/me", "b/me", "c"]),
        (["nano", "nano"], ["nano (1)", "nano (2)"]),
        (["me", "/x/me", "/"], ["me", "x/me", "/"]),
    ],
)
def test_labels_are_short_and_tell_models_apart(models: list[str], expected: list[str]) -> None:
    assert labels(models) == expected
