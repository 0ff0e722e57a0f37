"""Evaluation of a transcriber that answers what the test says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idiolect.transcriber import DecodingOptions, Transcription
from tests.training.parrots import Parrot, clips
from training.evaluate import EvaluationClip, evaluate, wer_difference

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

pytestmark = pytest.mark.torch  # `wer_english` comes with transformers


def test_an_evaluation_counts_words_loops_and_speed() -> None:
    found = evaluate(
        Parrot(["Call Anna!", "seven tree", "go home " * 20]), clips("call anna", "seven three", "go home")
    )
    assert (found.clips, found.words, found.audio_s, found.rtf) == (3, 6, 6.0, 0.25)
    assert found.errors == (0, 1, 38)
    assert (found.substitutions, found.deletions, found.insertions) == (1, 0, 38)
    assert sum(found.char_errors) / sum(found.clip_chars) == pytest.approx(found.cer)
    assert found.wer == pytest.approx(39 / 6)
    assert found.loops == pytest.approx(1 / 3)
    assert "hypotheses" not in found.summary()
    assert found.summary()["normalizer"] == "basic"


def test_two_evaluations_differ_on_the_clips_both_may_be_judged_on() -> None:
    said = clips("a b", "c d", "e f")
    good, bad = evaluate(Parrot(["a b", "c d", "x x"]), said), evaluate(Parrot(["a x", "c x", "e f"]), said)
    assert wer_difference(good, bad)[0] == pytest.approx(0.0)
    assert wer_difference(good, bad, [0, 1])[0] == pytest.approx(-0.5)


class _Polyglot(Parrot):
    """Answers in the language it is asked for."""

    def transcribe_many(
        self, clips: Sequence[Pcm], options: DecodingOptions = DecodingOptions()
    ) -> Iterator[Transcription]:
        return (Transcription(f"{options.language} {len(pcm)}", 2.0, 0.5) for pcm in clips)


def test_each_clip_is_heard_in_its_own_language() -> None:
    languages = ["de", "", "he", "de"]
    said = [EvaluationClip(f"{i}.wav", np.zeros(i, np.float32), "x", each) for i, each in enumerate(languages)]
    assert evaluate(_Polyglot([]), said, DecodingOptions("en")).hypotheses == ("de 0", "en 1", "he 2", "de 3")
