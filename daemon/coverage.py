"""Which of the user's terms were recorded how often, and how well the models hear them; what to record next."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from daemon.config import load
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.work.spec import TermRecall, load_result
from idiolect.errors import UsageError
from training import prompts
from training.scoring import occurrences
from training.split import text_key
from training.vocabulary import Term, Vocabulary, read_vocabulary

ENOUGH = prompts.SENTENCES_PER_TERM


@dataclass(frozen=True)
class TermCoverage:
    """One term: in how many ready clips it is said; of the held-out times it was said, how often models heard it."""

    term: Term
    recorded: int
    said: int = 0
    heard_by_stock: int = 0
    heard_now: int = 0

    @property
    def need(self) -> float:
        """From 0 (recorded often and always heard) to 1: half for too few recordings, half for recall, unknown as 0."""
        return 1 - (min(self.recorded, ENOUGH) / ENOUGH + (self.heard_now / self.said if self.said else 0.0)) / 2


@dataclass(frozen=True)
class Coverage:
    """All terms, the neediest first. `run` is the training whose models were measured, "" before the first."""

    terms: tuple[TermCoverage, ...]
    run: str = ""
    tier: str = ""


def coverage(paths: Paths, vocabulary_file: Path | None = None) -> Coverage:
    """The coverage of vocabulary.txt, or of another file. UsageError where that cannot be read."""
    vocabulary = _vocabulary(paths, vocabulary_file)
    texts, recalls, run, tier = _known(paths)
    return Coverage(measure(vocabulary.terms, texts, recalls), run, tier)


def measure(terms: Sequence[Term], texts: Sequence[str], recalls: Sequence[TermRecall]) -> tuple[TermCoverage, ...]:
    """Coverage of `terms` by the ready clips' texts, with the recalls of a run; the neediest first."""
    known = {recall.term: recall for recall in recalls}
    found = []
    for term in terms:
        recorded = sum(map(bool, occurrences(term.text, texts)))
        recall = known.get(term.text)
        figures = (recall.occurrences, recall.stock, recall.tuned) if recall else (0, 0, 0)
        found.append(TermCoverage(term, recorded, *figures))
    return tuple(sorted(found, key=lambda each: -each.need))


def write_prompts(
    paths: Paths,
    *,
    minutes: float | None = None,
    language: str | None = None,
    own_files: Sequence[Path] = (),
    vocabulary_file: Path | None = None,
    seed: int = 0,
) -> prompts.Script:
    """What to record next. With own texts the templates only fill up; a language with terms of its own needs no
    vocabulary. Raises UsageError."""
    spoken = language or load(paths.config_file).training.language
    templates = None
    if language or not own_files or spoken in prompts.languages():
        templates = prompts.read_templates(spoken)
    try:
        terms = [each.term.text for each in coverage(paths, vocabulary_file).terms]
    except UsageError:
        if vocabulary_file or templates is None or not templates.terms or paths.vocabulary_file.exists():
            raise
        terms = list(templates.terms)
    own = [sentence for file in own_files for sentence in prompts.own_sentences(_text(file))]
    length = prompts.default_minutes(len(terms)) if minutes is None else minutes
    return prompts.write_script(terms, length, templates, own, _recorded(paths), seed)


def _vocabulary(paths: Paths, file: Path | None) -> Vocabulary:
    if file is None and not paths.vocabulary_file.exists():
        raise UsageError(
            f"{paths.vocabulary_file} does not exist yet",
            "write your words into it, one a line; or name another file: --vocabulary FILE",
        )
    return read_vocabulary(file or paths.vocabulary_file)


def _known(paths: Paths) -> tuple[list[str], tuple[TermRecall, ...], str, str]:
    """Texts of the ready clips; recalls, id and tier of the newest run that measured any."""
    if not paths.library_db.exists():
        return [], (), "", ""
    library = Library(paths.library_db)
    try:
        texts = [clip.text for clip in library.ready_clips()]
        for run in library.runs():
            if run.state in {"published", "kept"}:
                result = load_result(paths.runs / run.id)
                if result and result.vocabulary:
                    return texts, result.vocabulary, run.id, run.tier
        return texts, (), "", ""
    finally:
        library.close()


def _recorded(paths: Paths) -> Set[str]:
    return {text_key(text) for text in _known(paths)[0]}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text", "save it as UTF-8") from None
