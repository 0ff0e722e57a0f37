"""Texts beside a model: what an app could not use is told with the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.companions import check_json, check_text, check_vocabulary
from exporters.layout import Dims
from idiolect.errors import ArtifactError

_DIMS = Dims(51_865, 1_500, 128, 4, 2, 448, 128, 4, 2, 80)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("", "tokenizer.json cannot be used"),
        ("[]", "it is no JSON object"),
        ("[" * 100_000, "tokenizer.json cannot be used"),
        ('{"model": []}', "50257 text tokens"),
        ('{"model": {"vocab": {"a": 0, "<|endoftext|>": 1}}}', "50257 text tokens"),
    ],
)
def test_a_tokenizer_without_the_models_tokens(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "tokenizer.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=reason):
        check_text(path, lambda found: check_vocabulary(found, _DIMS))


def test_what_can_be_used(nano: Path) -> None:
    check_text(nano / "tokenizer.json", lambda found: check_vocabulary(found, _DIMS))
    assert check_json(nano / "config.json")["vocab_size"] == _DIMS.n_vocab
