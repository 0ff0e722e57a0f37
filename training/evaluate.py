"""One model on one set of clips → Evaluation; two evaluations → which is better."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from idiolect.child import Reporter
from idiolect.transcriber import DecodingOptions, Transcriber, Transcription
from training import scoring

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


@dataclass(frozen=True)
class EvaluationClip:
    """A clip to be scored on: 1-D float32 PCM at 16 kHz, what was really said, and in which language.

    No language: that of the options.
    """

    name: str
    pcm: Pcm
    text: str
    language: str = ""


@dataclass(frozen=True)
class Evaluation:
    """How one model did. Rates are fractions; `rtf` is seconds of computing per second of audio (median of clips)."""

    model: str
    runtime: str
    clips: int
    words: int
    audio_s: float
    wer: float
    cer: float
    wer_english: float | None
    loops: float
    rtf: float
    peak_memory_bytes: int
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]
    errors: tuple[int, ...]
    clip_words: tuple[int, ...]
    substitutions: int
    deletions: int
    insertions: int
    char_errors: tuple[int, ...]
    clip_chars: tuple[int, ...]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Evaluation:
        """From `asdict`, after JSON made lists of the tuples."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)

    def summary(self) -> dict[str, Any]:
        """The figures without the texts, as `--json` and tables show them."""
        hidden = {"references", "hypotheses", "errors", "clip_words", "char_errors", "clip_chars"}
        return {"normalizer": "basic", **{k: v for k, v in asdict(self).items() if k not in hidden}}


def evaluate(
    transcriber: Transcriber,
    clips: Sequence[EvaluationClip],
    options: DecodingOptions = DecodingOptions(),
    reporter: Reporter | None = None,
) -> Evaluation:
    """Transcribe every clip and score it. Raises RuntimeFailed, and JobStopped when asked to stop."""
    answers = _answers(transcriber, clips, options, reporter or Reporter())
    references = tuple(clip.text for clip in clips)
    hypotheses = tuple(answer.text for answer in answers)
    rates = scoring.error_rates(references, hypotheses)
    per_clip = [scoring.error_rates([said], [heard]) for said, heard in zip(references, hypotheses, strict=True)]
    loops = [scoring.is_loop(answer.text, answer.duration_s) for answer in answers]
    return Evaluation(
        model=transcriber.name,
        runtime=transcriber.runtime,
        clips=len(clips),
        words=rates.words,
        audio_s=sum(answer.duration_s for answer in answers),
        wer=rates.wer,
        cer=rates.cer,
        wer_english=scoring.english_wer(references, hypotheses),
        loops=sum(loops) / len(loops) if loops else 0.0,
        rtf=statistics.median([a.compute_s / a.duration_s for a in answers if a.duration_s] or [0.0]),
        peak_memory_bytes=transcriber.peak_memory_bytes(),
        references=references,
        hypotheses=hypotheses,
        errors=tuple(clip.errors for clip in per_clip),
        clip_words=tuple(clip.words for clip in per_clip),
        substitutions=rates.substitutions,
        deletions=rates.deletions,
        insertions=rates.insertions,
        char_errors=tuple(clip.char_errors for clip in per_clip),
        clip_chars=tuple(clip.chars for clip in per_clip),
    )


def wer_difference(one: Evaluation, other: Evaluation, kept: Sequence[int] | None = None) -> tuple[float, float, float]:
    """WER of `one` minus WER of `other` on the same clips (or those at the indices `kept`) with its 95 % interval."""
    indices = range(one.clips) if kept is None else kept
    return scoring.paired_bootstrap(
        [one.errors[i] for i in indices], [other.errors[i] for i in indices], [one.clip_words[i] for i in indices]
    )


def _answers(
    transcriber: Transcriber, clips: Sequence[EvaluationClip], options: DecodingOptions, reporter: Reporter
) -> list[Transcription]:
    """What was heard in each clip, asked for language by language."""
    answers: dict[int, Transcription] = {}
    spoken = [clip.language or options.language for clip in clips]
    for language in dict.fromkeys(spoken):
        places = [place for place, each in enumerate(spoken) if each == language]
        heard = transcriber.transcribe_many([clips[place].pcm for place in places], replace(options, language=language))
        for place, answer in zip(places, heard, strict=True):
            reporter.check_stop()
            answers[place] = answer
            reporter.progress(len(answers), len(clips), "clips")
    return [answers[place] for place in range(len(clips))]
