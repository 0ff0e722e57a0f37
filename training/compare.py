"""Several models on the same clips: how sure their figures are, and who is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeAlias

from training.evaluate import Evaluation, wer_difference
from training.promise import Facts, promised
from training.scoring import Aligned, align, occurrences, paired_bootstrap
from training.split import is_judgeable
from training.vocabulary import Vocabulary, missed_vocabulary

WORST_CLIPS = 10
TIMED = "A checkpoint's speed is that of clips in batches; an export hears them one by one, as apps do."
_MEASURED = (
    "versus",
    "cer_versus",
    "with_terms",
    "with_terms_versus",
    "without_terms",
    "without_terms_versus",
    "noisy",
    "noise_loss",
    "noisy_versus",
)

Verdict: TypeAlias = Literal["better", "same", "worse", "too little to judge"]


@dataclass(frozen=True)
class Scored:
    """One model as measured: on the clips as they are and, where asked for, on the same clips in noise."""

    clean: Evaluation
    facts: Facts
    noisy: Evaluation | None = None


@dataclass(frozen=True)
class Interval:
    """A rate and its 95 % bootstrap interval, as fractions; no interval where there is but one clip."""

    rate: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.rate:.1%}"
        return f"{self.rate:.1%} ({self.low * 100:.1f}–{self.high * 100:.1f})"


@dataclass(frozen=True)
class Difference:
    """WER (or CER) minus another model's on the same clips, 95 % paired bootstrap interval, and what it means."""

    mean: float
    low: float
    high: float
    verdict: Verdict

    @property
    def points(self) -> str:
        """The difference and its interval in percentage points."""
        return f"{self.mean * 100:+.1f} ({self.low * 100:+.1f} to {self.high * 100:+.1f})"


@dataclass(frozen=True)
class Recall:
    """How often terms were said and heard."""

    heard: int
    said: int

    def __str__(self) -> str:
        return f"{self.heard} ({self.heard / self.said:.0%})" if self.said else "–"


@dataclass(frozen=True)
class WorstClip:
    """A clip with many errors, its words side by side."""

    clip: str
    errors: int
    words: int
    alignment: tuple[Aligned, ...]

    @property
    def count(self) -> str:
        """How many errors, in words."""
        return f"{self.errors} {'error' if self.errors == 1 else 'errors'}, {self.words} words said"


@dataclass(frozen=True)
class Result:
    """One model in the comparison. Differences are against the reference, None for the reference itself.

    `terms` is parallel to the comparison's terms; `with_terms` and `without_terms` are None where there is no such
    clip, `noisy` and `noise_loss` (noisy minus clean WER of this model) where no noise was asked for.
    """

    label: str
    scored: Scored
    wer: Interval
    cer: Interval
    versus: Difference | None
    cer_versus: Difference | None
    terms: tuple[Recall, ...]
    with_terms: Interval | None
    without_terms: Interval | None
    with_terms_versus: Difference | None
    without_terms_versus: Difference | None
    noisy: Interval | None
    noise_loss: Difference | None
    noisy_versus: Difference | None
    worst: tuple[WorstClip, ...]


@dataclass(frozen=True)
class Promise:
    """A tuned model beside the bigger stock model it should match: places in `results`, WER difference."""

    tuned: int
    rival: int
    versus: Difference


@dataclass(frozen=True)
class Comparison:
    """All models, those asked for first; `reference` is the place of the one the others are held against.

    `with_terms` counts the clips in which a term is said.
    """

    results: tuple[Result, ...]
    asked: int
    reference: int
    promises: tuple[Promise, ...]
    vocabulary: Vocabulary
    with_terms: int
    noise_db: float | None

    @property
    def subject(self) -> int:
        """The model it is about: the first that was asked for and is not the reference, if there is one."""
        return next((place for place in range(self.asked) if place != self.reference), self.reference)

    def places(self, group: str) -> list[int]:
        """Where the terms of a group stand that were said, the most frequent first."""
        recalls = self.results[self.reference].terms
        found = [
            place for place, term in enumerate(self.vocabulary.terms) if term.group == group and recalls[place].said
        ]
        return sorted(found, key=lambda place: -recalls[place].said)

    def never_said(self) -> list[str]:
        """Terms that no clip holds."""
        recalls = self.results[self.reference].terms
        return [t.text for t, recall in zip(self.vocabulary.terms, recalls, strict=True) if not recall.said]

    def groups(self, result: Result) -> dict[str, Recall]:
        """One model's recall by group of terms, those that were never said left out."""
        found: dict[str, Recall] = {}
        for term, recall in zip(self.vocabulary.terms, result.terms, strict=True):
            if recall.said:
                so_far = found.get(term.group, Recall(0, 0))
                found[term.group] = Recall(so_far.heard + recall.heard, so_far.said + recall.said)
        return found

    def to_json(self) -> dict[str, Any]:
        """For programs: `results` of the models asked for in their order, `rivals` that joined for the promise."""
        results = [self._row(result) for result in self.results]
        return {
            "results": results[: self.asked],
            "rivals": results[self.asked :],
            "reference": self.results[self.reference].scored.clean.model,
            "promises": [
                {
                    "tuned": self.results[promise.tuned].scored.clean.model,
                    "stock": self.results[promise.rival].scored.clean.model,
                    **asdict(promise.versus),
                }
                for promise in self.promises
            ],
            "vocabulary": {
                "source": self.vocabulary.source,
                "clips_with_terms": self.with_terms,
                "never_said": self.never_said(),
            },
            "noise_db": self.noise_db,
        }

    def _row(self, result: Result) -> dict[str, Any]:
        measured = {name: getattr(result, name) for name in _MEASURED}
        terms = zip(self.vocabulary.terms, result.terms, strict=True)
        return {
            **result.scored.clean.summary(),
            **asdict(result.scored.facts),
            "wer_interval": [result.wer.low, result.wer.high],
            "cer_interval": [result.cer.low, result.cer.high],
            **{name: value and asdict(value) for name, value in measured.items()},
            "terms": [{"term": term.text, "group": term.group, **asdict(recall)} for term, recall in terms],
            "groups": {group: asdict(recall) for group, recall in self.groups(result).items()},
            "worst": [
                {**asdict(clip), "alignment": [[*place, place.operation] for place in clip.alignment]}
                for clip in result.worst
            ],
        }


def compare(
    scored: Sequence[Scored],
    asked: int,
    reference: int,
    clips: Sequence[str],
    vocabulary: Vocabulary | None = None,
    noise_db: float | None = None,
) -> Comparison:
    """Hold every model against `scored[reference]` on `clips`; the first `asked` were asked for, others are rivals.

    Without a vocabulary the terms are the words that a stock model missed, where one was asked for, else the reference.
    """
    base, other_noisy = scored[reference].clean, scored[reference].noisy
    names = labels([each.clean.model for each in scored])
    terms = vocabulary or _missed(scored[:asked], names, reference)
    said = [occurrences(term.text, base.references) for term in terms.terms]
    holding = [i for i in range(base.clips) if any(counts[i] for counts in said)]
    rest = [i for i in range(base.clips) if i not in set(holding)]

    def result(index: int) -> Result:
        each = scored[index]
        heard = [occurrences(term.text, each.clean.hypotheses) for term in terms.terms]
        other = None if index == reference else base
        return Result(
            label=names[index],
            scored=each,
            wer=_wer(each.clean, range(base.clips)),
            cer=_interval(each.clean.char_errors, each.clean.clip_chars),
            versus=difference(each.clean, other) if other else None,
            cer_versus=_cer_difference(each.clean, other) if other else None,
            terms=tuple(Recall(sum(map(min, here, there)), sum(here)) for here, there in zip(said, heard, strict=True)),
            with_terms=_wer(each.clean, holding) if holding else None,
            without_terms=_wer(each.clean, rest) if holding and rest else None,
            with_terms_versus=difference(each.clean, other, holding) if other and holding else None,
            without_terms_versus=difference(each.clean, other, rest) if other and holding and rest else None,
            noisy=_wer(each.noisy, range(base.clips)) if each.noisy else None,
            noise_loss=difference(each.noisy, each.clean) if each.noisy else None,
            noisy_versus=difference(each.noisy, other_noisy) if each.noisy and other and other_noisy else None,
            worst=_worst(each.clean, clips),
        )

    return Comparison(
        results=tuple(map(result, range(len(scored)))),
        asked=asked,
        reference=reference,
        promises=_promises(scored),
        vocabulary=terms,
        with_terms=len(holding),
        noise_db=noise_db,
    )


def difference(one: Evaluation, other: Evaluation, kept: Sequence[int] | None = None) -> Difference:
    """WER of `one` minus WER of `other` on the same clips (or those at the indices `kept`), judged by its interval."""
    kept = range(one.clips) if kept is None else kept
    mean, low, high = wer_difference(one, other, kept)
    return Difference(mean, low, high, verdict(low, high, len(kept), sum(one.clip_words[i] for i in kept)))


def _missed(scored: Sequence[Scored], names: Sequence[str], reference: int) -> Vocabulary:
    """What a stock model missed: the reference, if it is one, else the first of `scored`; else what `reference` did."""
    stock = (place for place in (reference, *range(len(scored))) if scored[place].facts.stock)
    misser = next(stock, reference)
    found = scored[misser].clean
    return missed_vocabulary(names[misser], found.references, found.hypotheses)


def _cer_difference(one: Evaluation, other: Evaluation) -> Difference:
    mean, low, high = paired_bootstrap(one.char_errors, other.char_errors, one.clip_chars)
    return Difference(mean, low, high, verdict(low, high, one.clips, one.words))


def verdict(low: float, high: float, clips: int, words: int) -> Verdict:
    """What the interval of a difference on so much speech says of the model whose rate comes first."""
    if not is_judgeable(clips, words):
        return "too little to judge"
    return "better" if high < 0 else "worse" if low > 0 else "same"


def labels(models: Sequence[str]) -> list[str]:
    """A short name for each model: the end of its path, as long as it takes to tell it from the others."""
    parts = [PurePath(model).parts or (model,) for model in models]
    lengths = [1] * len(models)

    def made() -> list[str]:
        return ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]

    for _ in range(max(map(len, parts))):
        short = made()
        lengths = [length + (short.count(name) > 1) for name, length in zip(short, lengths, strict=True)]
    short = made()
    return [f"{name} ({short[:i].count(name) + 1})" if short.count(name) > 1 else name for i, name in enumerate(short)]


def _wer(evaluation: Evaluation, kept: Sequence[int]) -> Interval:
    return _interval([evaluation.errors[i] for i in kept], [evaluation.clip_words[i] for i in kept])


def _interval(errors: Sequence[int], units: Sequence[int]) -> Interval:
    rate, low, high = paired_bootstrap(errors, [0] * len(errors), units)
    if len(errors) < 2:
        return Interval(rate, None, None)
    if not any(errors) and any(units):  # what was never seen cannot be drawn again: the rate that hides this well
        high = 1 - 0.025 ** (1 / sum(units))
    return Interval(rate, low, high)


def _worst(evaluation: Evaluation, clips: Sequence[str]) -> tuple[WorstClip, ...]:
    order = sorted(range(evaluation.clips), key=lambda i: (-evaluation.errors[i], evaluation.clip_words[i]))
    return tuple(
        WorstClip(
            clips[i],
            evaluation.errors[i],
            evaluation.clip_words[i],
            align(evaluation.references[i], evaluation.hypotheses[i]),
        )
        for i in order[:WORST_CLIPS]
        if evaluation.errors[i]
    )


def _promises(scored: Sequence[Scored]) -> tuple[Promise, ...]:
    stock = {each.facts.tier: place for place, each in enumerate(scored) if each.facts.stock}
    return tuple(
        Promise(tuned, stock[tier], difference(scored[tuned].clean, scored[stock[tier]].clean))
        for tuned, tier in promised([each.facts for each in scored], stock)
    )
