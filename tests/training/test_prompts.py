"""Scripts to read aloud: every rule, in every language, at many lengths."""

from __future__ import annotations

from collections import Counter

import pytest

from idiolect.errors import UsageError
from training.prompts import (
    MAX_FRAME_SHARE,
    SENTENCES_PER_TERM,
    Frame,
    Script,
    default_minutes,
    languages,
    own_sentences,
    read_templates,
    write_script,
)
from training.scoring import occurrences
from training.split import text_key

TERMS = ("mekolet", "Kubernetes", "misrad hapnim", "zeroconf", "Quantisierung")


def check_rules(script: Script) -> None:
    """The rules that hold for every script."""
    sentences = script.sentences
    total = len(sentences)
    texts = [sentence.text for sentence in sentences]
    assert len({text_key(text) for text in texts}) == total
    assert max(Counter(sentence.frame for sentence in sentences).values()) <= MAX_FRAME_SHARE * total
    kinds = Counter(sentence.frame.kind for sentence in sentences)
    for kind, share in (("terms", 0.6), ("ordinary", 0.3), ("hard", 0.1)):
        assert abs(kinds[kind] - share * total) <= 1  # type: ignore[index]
    for term in {sentence.term for sentence in sentences} - {""}:
        assert sum(map(bool, occurrences(term, texts))) >= SENTENCES_PER_TERM
    assert not any("{" in text for text in texts)


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("sentences", [20, 39, 59, 61, 99, 240, pytest.param(600, marks=pytest.mark.slow)])
def test_the_rules_hold_in_every_language_at_every_length(language: str, sentences: int) -> None:
    templates = read_templates(language)
    words = sum(len(frame.text.split()) for frame in templates.frames) / len(templates.frames)
    minutes = sentences * words / 2.2 / 60
    script = write_script(TERMS, minutes, templates)
    check_rules(script)
    assert len(script.sentences) == sentences
    assert script.duration_s / 60 == pytest.approx(minutes, rel=0.25)


def test_there_are_the_languages_that_were_promised() -> None:
    assert {"en", "de", "he-latin"} <= set(languages())
    assert "mekolet" in read_templates("he-latin").terms
    with pytest.raises(UsageError, match="no sentences for the language 'xx'"):
        read_templates("xx")


@pytest.mark.parametrize("n_terms", [1, 7, 40])
def test_the_default_length_has_room_for_every_term(n_terms: int) -> None:
    terms = [f"term{number}" for number in range(n_terms)]
    script = write_script(terms, default_minutes(n_terms), read_templates("en"))
    check_rules(script)
    assert script.postponed == ()
    assert {sentence.term for sentence in script.sentences} - {""} == set(terms)


def test_what_does_not_fit_is_postponed_and_the_neediest_go_first() -> None:
    terms = [f"term{number}" for number in range(40)]
    script = write_script(terms, 5, read_templates("en"))
    check_rules(script)
    counts = Counter(sentence.term for sentence in script.sentences if sentence.term)
    kept = len(counts)
    assert set(counts) == set(terms[:kept])
    assert script.postponed == tuple(terms[kept:])
    assert counts["term0"] == max(counts.values())


def test_a_term_does_not_meet_a_frame_twice_while_there_are_others() -> None:
    script = write_script(TERMS[:1], 2, read_templates("en"))
    frames = [sentence.frame for sentence in script.sentences if sentence.term]
    assert len(set(frames)) == min(len(frames), 28)


def test_what_was_recorded_is_not_asked_for_again() -> None:
    first = write_script(TERMS, 10, read_templates("en"))
    recorded = {text_key(sentence.text) for sentence in first.sentences}
    second = write_script(TERMS, 10, read_templates("en"), recorded=recorded)
    check_rules(second)
    assert not recorded & {text_key(sentence.text) for sentence in second.sentences}


def test_the_same_seed_gives_the_same_script() -> None:
    templates = read_templates("de")
    assert write_script(TERMS, 5, templates, seed=3) == write_script(TERMS, 5, templates, seed=3)
    assert write_script(TERMS, 5, templates, seed=3) != write_script(TERMS, 5, templates, seed=4)


def test_own_texts_go_first_and_templates_fill_up() -> None:
    text = (
        "We moved the cluster to Kubernetes last year. Short one. It was raining all day long!\n\nNobody minded at all"
    )
    own = own_sentences(text)
    assert own == [
        "We moved the cluster to Kubernetes last year.",
        "It was raining all day long!",
        "Nobody minded at all",
    ]
    script = write_script(["Kubernetes"], 2, read_templates("en"), own)
    check_rules(script)
    assert Frame("terms", own[0]) in {sentence.frame for sentence in script.sentences}
    assert Frame("ordinary", own[1]) in {sentence.frame for sentence in script.sentences}


def test_too_little_to_write_from_is_told() -> None:
    with pytest.raises(UsageError, match="no term"):
        write_script([], 5, read_templates("en"))
    with pytest.raises(UsageError, match=r"too few different sentences with 'mekolet'.*5%"):
        write_script(["mekolet"], 5, None, ["I went to the mekolet this morning."])


def test_a_script_as_a_file_says_how_to_read_the_hard_ones() -> None:
    script = write_script(TERMS, 5, read_templates("en"))
    lines = script.to_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [sentence.text for sentence in script.sentences]
    assert {"# as fast as you can", "# numbers", "# names"} >= {line for line in lines if line.startswith("#")}
    assert sum(line.startswith("#") for line in lines) == sum(bool(s.frame.hint) for s in script.sentences)
