"""Which comparisons of the method's promise exist."""

from __future__ import annotations

import pytest

from training.base_models import TIERS
from training.promise import Facts, promised, tier_of

TINY, SMALL, ENGLISH = Facts("tiny"), Facts("small"), Facts("tiny.en")


@pytest.mark.parametrize(
    ("models", "at_hand", "expected"),
    [
        ([TINY], {"base", "small", "medium"}, [(0, "base"), (0, "small")]),
        ([TINY], {"small"}, [(0, "small")]),
        ([TINY], set(), []),
        ([SMALL, TINY], {"medium", "base"}, [(0, "medium"), (1, "base")]),
        ([Facts("tiny", stock=True)], {"base", "small"}, []),
        ([Facts("base"), Facts()], TIERS, []),
        ([ENGLISH], {"base", "base.en"}, [(0, "base.en")]),
        ([ENGLISH], {"base", "small.en"}, [(0, "base"), (0, "small.en")]),
        ([TINY], {"base.en"}, []),
    ],
)
def test_a_tuned_model_meets_the_bigger_stock_ones_at_hand(
    models: list[Facts], at_hand: set[str], expected: list[tuple[int, str]]
) -> None:
    assert promised(models, at_hand) == expected


@pytest.mark.parametrize(
    ("shape", "tier"),
    [
        ((128, 4, 51_865), "nano"),
        ((384, 4, 51_865), "tiny"),
        ((384, 4, 51_864), "tiny.en"),
        ((1280, 32, 51_866), "large-v3"),
        ((1280, 4, 51_866), "large-v3-turbo"),
        ((768, 4, 51_865), ""),  # a distilled small
    ],
)
def test_dimensions_tell_the_tier(shape: tuple[int, int, int], tier: str) -> None:
    assert tier_of(*shape) == tier
    assert not tier or tier in TIERS
