"""How well hypotheses match references: WER, CER, alignment, recall of terms, loops, intervals. No torch.

The primary rates use Whisper's *basic* normaliser (openai/whisper `normalizers/basic.py`): its English one joins
spoken digits ("seven three" → "73"), which makes WER jump.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Operation: TypeAlias = Literal["equal", "substitute", "delete", "insert"]

SPELLINGS = Path(__file__).parent / "data" / "english.json"
LOOP_REPEATS = 4  # the same words so often in a row is no speech
PLAUSIBLE_WORDS_PER_S = 7.0
MIN_TERM_OCCURRENCES = 3


@dataclass(frozen=True)
class ErrorRates:
    """Rates as fractions, counts over all clips."""

    wer: float
    cer: float
    words: int
    substitutions: int
    deletions: int
    insertions: int
    chars: int = 0
    char_errors: int = 0

    @property
    def errors(self) -> int:
        """Words that are wrong, missing or too many."""
        return self.substitutions + self.deletions + self.insertions


class Aligned(NamedTuple):
    """One place of an alignment: the word said and the word heard; empty where there is none."""

    said: str
    heard: str

    @property
    def operation(self) -> Operation:
        """What happened to the word."""
        if self.said == self.heard:
            return "equal"
        return "insert" if not self.said else "delete" if not self.heard else "substitute"


@lru_cache(maxsize=1 << 14)  # every term is looked for in every text
def basic_normalize(text: str) -> str:
    """Lower case; brackets and their content, symbols, punctuation and marks become spaces; spaces collapsed."""
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]+?\)", "", text.lower())
    folded = unicodedata.normalize("NFKC", text)
    return " ".join("".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in folded).split()).lower()


def english_normalize(text: str) -> str:
    """Whisper's English normaliser, from transformers (extra [train]); numbers, spellings and contractions unified."""
    return _english()(text)


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """WER and CER over all clips after `basic_normalize`; 0 where the references hold no word and nothing was heard."""
    return _rates([basic_normalize(text) for text in references], [basic_normalize(text) for text in hypotheses])


def english_wer(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    """WER after `english_normalize`, or None where transformers is not installed."""
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return None
    return _rates(
        [english_normalize(text) for text in references], [english_normalize(text) for text in hypotheses]
    ).wer


def align(reference: str, hypothesis: str) -> tuple[Aligned, ...]:
    """The words of one clip after `basic_normalize`, side by side, as the WER counts them."""
    import jiwer

    said, heard = basic_normalize(reference), basic_normalize(hypothesis)
    if not said:
        return tuple(Aligned("", word) for word in heard.split())
    places = []
    for chunk in jiwer.process_words(said, heard).alignments[0]:
        here = said.split()[chunk.ref_start_idx : chunk.ref_end_idx]
        there = heard.split()[chunk.hyp_start_idx : chunk.hyp_end_idx]
        places += [Aligned(*pair) for pair in zip_longest(here, there, fillvalue="")]
    return tuple(places)


def paired_bootstrap(
    errors: Sequence[int], other_errors: Sequence[int], words: Sequence[int], resamples: int = 2_000
) -> tuple[float, float, float]:
    """WER minus the other WER on the same clips: (mean, 2.5 %, 97.5 %) over resampled clips, always the same seed."""
    import numpy as np

    n_words = np.asarray(words, dtype=np.float64)
    difference = np.asarray(errors, dtype=np.float64) - np.asarray(other_errors, dtype=np.float64)
    if not n_words.sum():
        return 0.0, 0.0, 0.0
    draws = np.random.default_rng(0).multinomial(len(words), np.full(len(words), 1 / len(words)), size=resamples)
    sampled = (draws @ difference) / np.maximum(draws @ n_words, 1.0)
    low, high = np.quantile(sampled, [0.025, 0.975])
    return float(difference.sum() / n_words.sum()), float(low), float(high)


def ratio(errors: Sequence[int], counts: Sequence[int]) -> tuple[float, float]:
    """Errors per word (or token) over clips, and its standard error, infinite for one clip and for no words.

    By clips, not by words: a clip that runs on brings many errors at once (ratio estimator, Cochran, 1977, §6).
    """
    clips, words = len(counts), sum(counts)
    rate = sum(errors) / words if words else 0.0
    if clips < 2 or not words:
        return rate, math.inf
    squares = sum((found - rate * count) ** 2 for found, count in zip(errors, counts, strict=True))
    return rate, math.sqrt(squares * clips / (clips - 1)) / words


def is_loop(hypothesis: str, duration_s: float) -> bool:
    """True for an output that runs on: words repeated in a row, or far more words than the audio has time for."""
    words = basic_normalize(hypothesis).split()
    if len(words) > 10 + PLAUSIBLE_WORDS_PER_S * duration_s:
        return True
    return any(_repeats(words, size) for size in range(2, 9)) or _repeats(words, 1, LOOP_REPEATS + 4)


def occurrences(term: str, texts: Sequence[str]) -> list[int]:
    """How often a term of one or more words stands in each text, both after `basic_normalize`, as whole words."""
    wanted = re.compile(rf"(?<!\S){re.escape(basic_normalize(term))}(?!\S)")
    return [len(wanted.findall(basic_normalize(text))) for text in texts]


def term_recall(term: str, references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """(times heard, times said) of one term, matched clip by clip."""
    said, found = occurrences(term, references), occurrences(term, hypotheses)
    return sum(map(min, said, found)), sum(said)


def missed_terms(references: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    """Words said at least three times and heard less than half as often: what a model does not know yet."""
    counts = Counter(word for text in references for word in basic_normalize(text).split())
    frequent = [word for word, count in counts.most_common() if count >= MIN_TERM_OCCURRENCES and len(word) > 3]
    return sorted(word for word in frequent if _recall(term_recall(word, references, hypotheses)) < 0.5)


def _recall(counts: tuple[int, int]) -> float:
    heard, said = counts
    return heard / said if said else 1.0


def _repeats(words: Sequence[str], size: int, times: int = LOOP_REPEATS) -> bool:
    """True when some `size` words stand `times` times in a row."""
    matches = 0
    for i in range(size, len(words)):
        matches = matches + 1 if words[i] == words[i - size] else 0
        if matches >= size * (times - 1):
            return True
    return False


def _rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    import jiwer

    words = sum(len(text.split()) for text in references)
    if not words:
        heard, chars = sum(len(text.split()) for text in hypotheses), sum(map(len, hypotheses))
        return ErrorRates(float(heard > 0), float(heard > 0), 0, 0, 0, heard, 0, chars)
    by_word = jiwer.process_words(list(references), list(hypotheses))
    by_char = jiwer.process_characters(list(references), list(hypotheses))
    return ErrorRates(
        wer=by_word.wer,
        cer=by_char.cer,
        words=words,
        substitutions=by_word.substitutions,
        deletions=by_word.deletions,
        insertions=by_word.insertions,
        chars=by_char.hits + by_char.substitutions + by_char.deletions,
        char_errors=by_char.substitutions + by_char.deletions + by_char.insertions,
    )


@cache
def _english() -> Callable[[str], str]:
    """The normaliser out of its own file: importing it as part of transformers would load torch, for seconds."""
    import json
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

    package = find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "models" / "whisper" / "english_normalizer.py"
    spec = spec_from_file_location("idiolect_english_normalizer", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    normalize: Callable[[str], str] = module.EnglishTextNormalizer(json.loads(SPELLINGS.read_text()))
    return normalize
