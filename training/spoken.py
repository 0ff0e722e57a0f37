"""Whether recordings are in the language that they are said to be in, by the stock model's own ear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from idiolect.whisper import LANGUAGES, special_tokens
from training.decode import language_probabilities
from training.examples import Example

ASKED_CLIPS = 5  # of each language: each is a whole window to hear, which takes a large model seconds
SURE = 0.5  # of the mean probability; a model that cannot tell languages apart, as nano, is nowhere near it


def doubts(model: Any, examples: Sequence[Example]) -> list[str]:  # noqa: ANN401
    """What to tell the user, a line for each language that `model` takes for another."""
    if not special_tokens(model.config.vocab_size).multilingual:
        return []
    model.eval()
    lines = []
    for declared in dict.fromkeys(example.language for example in examples):
        asked = [example for example in examples if example.language == declared][:ASKED_CLIPS]
        if likely := _likely(model, declared, asked):
            lines.append(doubt(declared, likely, [example.name for example in asked]))
    return [line for line in lines if line]


def doubt(declared: str, likely: Sequence[float], names: Sequence[str]) -> str:
    """The line for recordings `names`, with the mean probability of each of LANGUAGES; empty where all is well."""
    best = max(range(len(likely)), key=likely.__getitem__)
    if LANGUAGES[best] == declared or likely[best] < SURE:
        return ""
    return (
        f"{', '.join(names)}: said to be {declared!r}, and the stock model hears {LANGUAGES[best]!r} "
        f"({likely[best]:.0%}): if it is right set the language, for all (--language, or [training] language in "
        "config.toml) or for each recording in metadata.jsonl"
    )


def _likely(model: Any, declared: str, asked: Sequence[Example]) -> list[float]:  # noqa: ANN401
    """The mean probability of each language; empty once no other can be sure any more, whatever the clips left say."""
    import torch

    others = [code != declared for code in LANGUAGES[: special_tokens(model.config.vocab_size).n_languages]]
    likely = torch.zeros(len(others))
    for left, example in zip(reversed(range(len(asked))), asked, strict=True):
        likely += language_probabilities(model, example.mel.float()).cpu()
        if float(likely[others].max()) + left < SURE * len(asked):
            return []
    return [float(each) / len(asked) for each in likely]
