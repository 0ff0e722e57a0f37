"""Recordings in another language than they are said to be in are told, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from idiolect.whisper import LANGUAGES, special_tokens
from tests.training.speech import shipped
from training.decode import load_model
from training.examples import ExampleMaker
from training.spoken import SURE, doubt, doubts


def _likely(language: str, probability: float) -> list[float]:
    rest = (1 - probability) / (len(LANGUAGES) - 1)
    return [probability if code == language else rest for code in LANGUAGES]


def test_only_a_sure_ear_doubts() -> None:
    told = doubt("en", _likely("de", 0.9), ["a.wav", "b.wav"])
    assert told.startswith("a.wav, b.wav: said to be 'en', and the stock model hears 'de' (90%)")
    assert "--language" in told
    assert not doubt("de", _likely("de", 0.9), ["a.wav"])
    assert not doubt("en", _likely("de", SURE - 0.01), ["a.wav"])


@pytest.mark.torch
def test_a_model_that_hears_german_doubts_the_english_ones(nano: Path, voices: Path) -> None:
    import torch

    model, tokenizer = load_model(nano)
    special = special_tokens(model.config.vocab_size)
    make = ExampleMaker(tokenizer, special, model.config.num_mel_bins)
    clips = shipped(voices, "human", 2)
    examples = [make(name, pcm, text, code) for code, (name, pcm, text) in zip(("en", "de"), clips, strict=True)]
    assert doubts(model, examples) == []  # nano was never asked for a language
    states = []
    model.model.decoder.layer_norm.register_forward_hook(lambda module, given, made: states.append(made[0, -1]))
    doubts(model, examples)
    with torch.no_grad():
        model.proj_out.weight[special.language("de")] = 100 * states[0] / states[0].norm()
    (told,) = doubts(model, examples)
    assert told.startswith(f"{clips[0][0]}: said to be 'en', and the stock model hears 'de'")


@pytest.mark.torch
def test_no_more_clips_are_asked_than_a_doubt_needs(nano: Path, voices: Path) -> None:
    model, tokenizer = load_model(nano)
    make = ExampleMaker(tokenizer, special_tokens(model.config.vocab_size), model.config.num_mel_bins)
    examples = [make(name, pcm, text, "en") for name, pcm, text in shipped(voices, "human", 6)]
    asked = []
    model.model.decoder.layer_norm.register_forward_hook(lambda *_: asked.append(1))
    assert doubts(model, examples) == []
    assert len(asked) == 3  # of five: the two left could not make another language sure
