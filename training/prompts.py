"""Scripts to read aloud: what to record next, so that a model meets the user's words often and in many sentences.

    60 %  sentences with terms, those of least coverage and worst recall first, each in at least 8 of them
    30 %  ordinary dictation
    10 %  hard cases: fast speech, numbers, names

No sentence stands twice in a script, or in one already recorded, and no frame makes more than 5 % of it. Frames are
templates (`data/prompts/LANGUAGE.txt`) or, each a frame of its own, sentences of the user's own texts.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from idiolect.errors import UsageError
from training.scoring import basic_normalize, occurrences
from training.split import text_key

Kind = Literal["terms", "ordinary", "hard"]

FOLDER = Path(__file__).parent / "data" / "prompts"
SHARES: dict[Kind, float] = {"terms": 0.6, "ordinary": 0.3, "hard": 0.1}
SENTENCES_PER_TERM = 8
MAX_FRAME_SHARE = 0.05
MIN_SENTENCES = round(1 / MAX_FRAME_SHARE)  # of fewer, one is more than the share of a frame
WORDS_PER_S = 2.2  # of dictation, with the breath between sentences
OWN_WORDS = range(4, 26)
ATTEMPTS = 60
_SLOT = re.compile(r"\{(\w+)\}")
_SECTION = re.compile(r"\[(terms|ordinary|hard)(?::\s*(.*?))?\s*\]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n\s*\n")


@dataclass(frozen=True)
class Frame:
    """A sentence with slots, as in "add {term} to the list"; `hint` tells how to read it."""

    kind: Kind
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Templates:
    """The frames of one language and the words that fill their slots; `terms` for who has no vocabulary yet."""

    frames: tuple[Frame, ...]
    words: dict[str, tuple[str, ...]]

    @property
    def terms(self) -> tuple[str, ...]:
        """The language's own terms."""
        return self.words.get("term", ())


@dataclass(frozen=True)
class Sentence:
    """One line of a script; `term` is what it is there for."""

    text: str
    frame: Frame
    term: str = ""


@dataclass(frozen=True)
class Script:
    """Sentences in the order to read; `postponed` are terms for which it is too short."""

    sentences: tuple[Sentence, ...]
    postponed: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """About how long reading it takes."""
        return sum(len(sentence.text.split()) for sentence in self.sentences) / WORDS_PER_S

    def to_text(self) -> str:
        """As a file: a sentence a line, before it `# how to read it` where that matters."""
        lines = []
        for sentence in self.sentences:
            lines += [f"# {sentence.frame.hint}"] if sentence.frame.hint else []
            lines.append(sentence.text)
        return "\n".join(lines) + "\n"


def languages() -> list[str]:
    """Languages with templates."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_templates(language: str) -> Templates:
    """The templates of `language`. UsageError for one without."""
    path = FOLDER / f"{language}.txt"
    if language not in languages():
        raise UsageError(
            f"there are no sentences for the language {language!r}",
            f"choose one of {', '.join(languages())}, or name texts of your own with --from FILE",
        )
    words: dict[str, tuple[str, ...]] = {}
    frames, kind, hint = [], "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            name, _, values = line[1:].partition("=")
            words[name.strip()] = tuple(value.strip() for value in values.split(","))
        elif section := _SECTION.fullmatch(line):
            kind, hint = section[1], section[2] or ""
        elif line and not line.startswith("#"):
            frames.append(Frame(kind, line, hint))  # type: ignore[arg-type]
    return Templates(tuple(frames), words)


def own_sentences(text: str) -> list[str]:
    """The sentences of a text that are of a length to dictate, each once."""
    found = (" ".join(part.split()) for part in _SENTENCE_END.split(text))
    return list(dict.fromkeys(sentence for sentence in found if len(sentence.split()) in OWN_WORDS))


def default_minutes(n_terms: int) -> float:
    """How long a script for all of `n_terms` terms is."""
    return max(MIN_SENTENCES, n_terms * SENTENCES_PER_TERM / SHARES["terms"]) * 10 / WORDS_PER_S / 60


def write_script(
    terms: Sequence[str],
    minutes: float,
    templates: Templates | None,
    own: Sequence[str] = (),
    recorded: Set[str] = frozenset(),
    seed: int = 0,
) -> Script:
    """A script of about `minutes` for `terms`, the neediest first; sentences of `own` texts go before templates.

    `recorded` holds `text_key`s of sentences not to repeat. The same arguments give the same script. Raises
    UsageError where there are no terms or too few frames.
    """
    if not terms:
        raise UsageError("there is no term to write sentences for", "write your words into vocabulary.txt, one a line")
    return _Writer(terms, minutes, templates, own, recorded, random.Random(seed)).write()


@dataclass
class _Writer:
    terms: Sequence[str]
    minutes: float
    templates: Templates | None
    own: Sequence[str]
    recorded: Set[str]
    chance: random.Random
    written: set[str] = field(default_factory=set)
    used: Counter[Frame] = field(default_factory=Counter)
    met: set[tuple[str, Frame]] = field(default_factory=set)

    def write(self) -> Script:
        total = max(MIN_SENTENCES, round(self.minutes * 60 * WORDS_PER_S / self._words_per_sentence()))
        self.most = int(total * MAX_FRAME_SHARE)
        counts = {kind: round(total * share) for kind, share in SHARES.items()}
        counts["ordinary"] = total - counts["terms"] - counts["hard"]
        chosen = list(self.terms[: max(1, counts["terms"] // SENTENCES_PER_TERM)])
        wanted = [chosen[index % len(chosen)] for index in range(counts["terms"])]  # the neediest get one more
        sentences = [self._sentence("terms", term) for term in wanted]
        sentences += [self._sentence(kind) for kind in ("ordinary", "hard") for _ in range(counts[kind])]
        self.chance.shuffle(sentences)
        return Script(tuple(sentences), tuple(self.terms[len(chosen) :]))

    def _sentence(self, kind: Kind, term: str = "") -> Sentence:
        for frame in self._frames(kind, term):
            for _ in range(ATTEMPTS if _SLOT.search(frame.text) else 1):
                text = self._filled(frame, term)
                if self._is_new(text):
                    self.written.add(text_key(text))
                    self.used[frame] += 1
                    self.met.add((term, frame))
                    return Sentence(text, frame, term)
        about = f"with {term!r}" if term else f"of the kind {kind!r}"
        raise UsageError(
            f"there are too few different sentences {about}: no frame may make more than {MAX_FRAME_SHARE:.0%}",
            "ask for fewer minutes, or name more texts with --from FILE",
        )

    def _frames(self, kind: Kind, term: str) -> Iterator[Frame]:
        """Those that may be used: own sentences, then templates, the least used and those new to the term first."""
        if kind == "terms":
            yield from (Frame(kind, text) for text in self.own if occurrences(term, [text])[0])
        elif kind == "ordinary":
            yield from (Frame(kind, text) for text in self.own)
        fitting = [frame for frame in self.templates.frames if frame.kind == kind] if self.templates else []
        self.chance.shuffle(fitting)
        free = [frame for frame in fitting if self.used[frame] < self.most]
        yield from sorted(free, key=lambda frame: ((term, frame) in self.met, self.used[frame]))

    def _filled(self, frame: Frame, term: str) -> str:
        """The frame with its slots filled; no word twice in one sentence, where there are enough."""
        if "{" not in frame.text or self.templates is None:
            return frame.text
        left = {name: self.chance.sample(words, len(words)) for name, words in self.templates.words.items()}

        def fill(slot: re.Match[str]) -> str:
            return term if slot[1] == "term" else left[slot[1]].pop()

        return _SLOT.sub(fill, frame.text)

    def _is_new(self, text: str) -> bool:
        key = text_key(text)
        return bool(basic_normalize(text)) and key not in self.written and key not in self.recorded

    def _words_per_sentence(self) -> float:
        texts = [frame.text for frame in self.templates.frames] if self.templates else list(self.own)
        return sum(len(text.split()) for text in texts) / len(texts) if texts else 10.0
