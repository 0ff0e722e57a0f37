"""The user's own words, that a model is asked to know: `vocabulary.txt`.

    # a comment
    Kubernetes
    machine learning
    [Hebrew]
    makolet

One term of one or more words a line, UTF-8; `[name]` begins a group; lines that begin with # are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from idiolect.errors import UsageError
from training.scoring import basic_normalize, missed_terms

NO_GROUP = "terms"
_GROUP = re.compile(r"\[\s*(.*?)\s*\]")


@dataclass(frozen=True)
class Term:
    """What to listen for, as the user wrote it, and the group it stands in."""

    text: str
    group: str = NO_GROUP


@dataclass(frozen=True)
class Vocabulary:
    """Terms and, in words, where they come from; `is_missed` where they were picked because a model missed them."""

    terms: tuple[Term, ...]
    source: str
    is_missed: bool = False


def read_vocabulary(path: Path) -> Vocabulary:
    """The terms of a file in its order, each once. Raises UsageError, naming the line where there is one."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a text file with one term a line") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", "save it as UTF-8, one term a line") from None
    terms: dict[str, Term] = {}
    group = NO_GROUP
    for number, line in enumerate(map(str.strip, lines), 1):
        header = _GROUP.fullmatch(line)
        if header:
            group = header[1] or NO_GROUP
        elif line and not line.startswith("#"):
            key = basic_normalize(line)
            if not key:
                raise UsageError(
                    f"{path}, line {number}: {line!r} holds no letter or digit", "write a word, or remove it"
                )
            terms.setdefault(key, Term(line, group))
    if not terms:
        raise UsageError(f"{path} holds no term", "write one term a line; a line like [names] begins a group")
    return Vocabulary(tuple(terms.values()), path.name)


def missed_vocabulary(model: str, references: Sequence[str], hypotheses: Sequence[str]) -> Vocabulary:
    """The words that `model` missed most of the times they were said."""
    terms = tuple(Term(word, "missed words") for word in missed_terms(references, hypotheses))
    return Vocabulary(terms, f"those that {model} missed", is_missed=True)
