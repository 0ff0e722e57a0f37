"""The user's list of words, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from idiolect.errors import UsageError
from training.vocabulary import Term, missed_vocabulary, read_vocabulary


def test_terms_stand_in_the_group_above_them(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.txt"
    file.write_text(
        "\ufeff# mine\nKubernetes\n\n[ Hebrew ]\nמכולת\nkubernetes!\n[]\nmachine learning\n", encoding="utf-8"
    )
    found = read_vocabulary(file)
    assert found.terms == (Term("Kubernetes"), Term("מכולת", "Hebrew"), Term("machine learning"))
    assert found.source == "vocabulary.txt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no term"),
        (b"# only this\n[group]\n", "holds no term"),
        (b"caf\xe9\n", "is not UTF-8"),
        (b"fine\n***\n", "line 2: '***'"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "vocabulary.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said.replace("*", r"\*")) as caught:
        read_vocabulary(file)
    assert str(file) in caught.value.message
    assert caught.value.hint


def test_without_a_file_the_words_are_those_a_model_misses() -> None:
    found = missed_vocabulary("nano", ["arnona now"] * 3, ["iron now"] * 3)
    assert [term.text for term in found.terms] == ["arnona"]
    assert found.is_missed
    assert "nano" in found.source
