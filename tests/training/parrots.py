"""Models that answer what a test says, and what comparing them gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from idiolect.transcriber import DecodingOptions, Transcription
from training.compare import Comparison, Scored, compare
from training.evaluate import Evaluation, EvaluationClip, evaluate
from training.promise import Facts
from training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


class Parrot:
    """A Transcriber with prepared answers, each 0.5 s of computing for 2 s of audio."""

    runtime = "none"

    def __init__(self, answers: Sequence[str], name: str = "parrot") -> None:
        self.answers = answers
        self.name = name

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


def clips(*texts: str) -> list[EvaluationClip]:
    """Two seconds of silence for each text."""
    return [EvaluationClip(f"{i}.wav", np.zeros(32_000, np.float32), text) for i, text in enumerate(texts)]


def heard(name: str, said: Sequence[str], answers: Sequence[str]) -> Evaluation:
    """What a model that answers so is worth."""
    return evaluate(Parrot(answers, name), clips(*said))


def compared(
    said: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    facts: Mapping[str, Facts] | None = None,
    vocabulary: Vocabulary | None = None,
    noisy: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] = (),
    reference: int = 0,
    asked: int | None = None,
) -> Comparison:
    """Models by name with their answers, held against the first, or another one."""
    scored = [
        Scored(
            heard(name, said, texts),
            (facts or {}).get(name, Facts()),
            heard(name, said, noisy[name]) if noisy else None,
        )
        for name, texts in answers.items()
    ]
    names = names or [f"{i}.wav" for i in range(len(said))]
    return compare(scored, asked or len(scored), reference, names, vocabulary, 10.0 if noisy else None)
