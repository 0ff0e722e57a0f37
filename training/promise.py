"""What fine-tuning promises: a tuned model does as well as a bigger stock one. Which of these can be shown here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

RIVALS = {"tiny": ("base", "small"), "small": ("medium",)}
_SHAPES = {
    (128, 4): "nano",
    (384, 4): "tiny",
    (512, 6): "base",
    (768, 12): "small",
    (1024, 24): "medium",
    (1280, 32): "large-v3",
    (1280, 4): "large-v3-turbo",
}
_ENGLISH_VOCABULARY = 51_864


@dataclass(frozen=True)
class Facts:
    """What a model is, whatever it heard; empty or None where its file does not tell.

    `stock` is true only for models asked for by the name of a stock model.
    """

    tier: str = ""
    stock: bool = False
    parameters: int | None = None
    size_bytes: int | None = None


def tier_of(width: int, decoder_layers: int, vocabulary_size: int) -> str:
    """The tier with these dimensions; empty for shapes that no tier has."""
    name = _SHAPES.get((width, decoder_layers), "")
    english = vocabulary_size == _ENGLISH_VOCABULARY and name in {"tiny", "base", "small", "medium"}
    return f"{name}.en" if english else name


def promised(models: Sequence[Facts], at_hand: Collection[str]) -> list[tuple[int, str]]:
    """(index of a tuned model, tier of the stock model it should match) for the stock models at hand.

    An English-only model meets its English-only rival where that is at hand, else the multilingual one.
    """
    found = []
    for index, model in enumerate(models):
        name, dot, english = model.tier.partition(".")
        for rival in () if model.stock else RIVALS.get(name, ()):
            spellings = (rival + dot + english, rival)
            found += [(index, spelling) for spelling in spellings if spelling in at_hand][:1]
    return found
