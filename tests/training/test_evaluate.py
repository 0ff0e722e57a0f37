"""Evaluation of a transcriber that answers what the test says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idiolect.transcriber import DecodingOptions, Transcription
from training.evaluate import EvaluationClip, evaluate, wer_difference

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

pytestmark = pytest.mark.torch  # `wer_english` comes with transformers


class Parrot:
    """A Transcriber with prepared answers, each 0.5 s of computing for 2 s of audio."""

    name = "parrot"
    runtime = "none"

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers

    def transcribe(self, pcm: Pcm, options: DecodingOptions = DecodingOptions()) -> Transcription:
        return Transcription(self.answers[0], 2.0, 0.5)

    def transcribe_many(
        self, clips: Sequence[Pcm], options: DecodingOptions = DecodingOptions()
    ) -> Iterator[Transcription]:
        return (Transcription(answer, 2.0, 0.5) for answer, _ in zip(self.answers, clips, strict=True))

    def peak_memory_bytes(self) -> int:
        return 1

    def close(self) -> None:
        """Nothing to free."""


def _clips(*texts: str) -> list[EvaluationClip]:
    return [EvaluationClip(f"{i}.wav", np.zeros(32_000, np.float32), text) for i, text in enumerate(texts)]


def test_an_evaluation_counts_words_loops_and_speed() -> None:
    clips = _clips("call anna", "seven three", "go home")
    found = evaluate(Parrot(["Call Anna!", "seven tree", "go home " * 20]), clips)
    assert (found.clips, found.words, found.audio_s, found.rtf) == (3, 6, 6.0, 0.25)
    assert found.errors == (0, 1, 38)
    assert found.wer == pytest.approx(39 / 6)
    assert found.loops == pytest.approx(1 / 3)
    assert "hypotheses" not in found.summary()
    assert found.summary()["normalizer"] == "basic"


def test_two_evaluations_differ_on_the_clips_both_may_be_judged_on() -> None:
    clips = _clips("a b", "c d", "e f")
    good, bad = evaluate(Parrot(["a b", "c d", "x x"]), clips), evaluate(Parrot(["a x", "c x", "e f"]), clips)
    assert wer_difference(good, bad)[0] == pytest.approx(0.0)
    assert wer_difference(good, bad, [0, 1])[0] == pytest.approx(-0.5)
