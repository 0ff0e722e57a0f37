"""Which clips teach (train), which choose the checkpoint (select) and which only judge (held-out)."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

Side = Literal["train", "select", "held-out"]

SPLIT_VERSION = "idiolect-split/1"  # hashed with every transcript: the same text in another use hashes otherwise
HELD_OUT_PERCENT = 20
SELECT_PERCENT_OF_TRAIN = 10
MIN_JUDGED_CLIPS = 10
MIN_JUDGED_WORDS = 60


def text_key(text: str) -> str:
    """The transcript as the split sees it: case, punctuation and spacing do not make another sentence."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(char if char.isalnum() or unicodedata.category(char) == "Mn" else " " for char in folded)
    return " ".join(kept.split()) or " ".join(folded.split())


def side(text: str, declared: Side | None = None) -> Side:
    """The side of a clip, by hash of its transcript, so that two takes of one sentence never straddle it.

    `declared` is what the user's folder says: "held-out" (and "select") stand, "train" is still shared
    between train and select.
    """
    if declared in {"held-out", "select"}:
        return declared
    digest = hashlib.sha256(f"{SPLIT_VERSION}\n{text_key(text)}".encode()).digest()
    if declared is None and int.from_bytes(digest[:8]) % 100 < HELD_OUT_PERCENT:
        return "held-out"
    return "select" if int.from_bytes(digest[8:16]) % 100 < SELECT_PERCENT_OF_TRAIN else "train"


def is_judgeable(clips: int, words: int) -> bool:
    """Whether so many held-out clips and words are enough to say that one model is better than another."""
    return clips >= MIN_JUDGED_CLIPS and words >= MIN_JUDGED_WORDS
