"""The README of a finished model: what it is, what it was taught, how well it hears, whose licence it is under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from idiolect.files import write_text

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Card:
    """Facts about a model. `license` empty: the base's is not known. Rates as fractions, None where not measured."""

    base: str
    license: str
    languages: Sequence[str]
    clips: int
    audio_s: float
    steps: int
    wer_stock: float | None = None
    wer_tuned: float | None = None
    held_out_clips: int = 0


def write_card(folder: Path, card: Card) -> None:
    """Write the card of the model in `folder`, in place of an earlier one."""
    write_text(folder / CARD_FILE, card_text(card))


def card_text(card: Card) -> str:
    """Markdown under the YAML header that model hubs read."""
    header = ["library_name: transformers", "pipeline_tag: automatic-speech-recognition", "language:"]
    header += [f"- {language}" for language in card.languages]
    if card.license:
        header.append(f"license: {card.license.lower()}")
    if "/" in card.base and not Path(card.base).is_absolute():
        header.append(f"base_model: {card.base}")
    return f"""---
{chr(10).join(header)}
---
# Whisper, taught one voice

Fine-tuned from {card.base} by idiolect, on {card.audio_s / 3600:.2f} hours of one person's speech ({card.clips} clips,
{card.steps} steps). {_measured(card)}

It works at any audio context up to 30 s and with or without timestamps. Licence: {_licence(card)}. The voice is a
person's: ask before you pass it on.
"""


def _measured(card: Card) -> str:
    if card.wer_tuned is None or card.wer_stock is None:
        return f"It was not measured{'' if card.held_out_clips else ': no recordings were held out'}."
    wer = f"{card.wer_tuned:.1%} (the stock model's: {card.wer_stock:.1%})"
    return f"WER on {card.held_out_clips} held-out clips of the same person: {wer}."


def _licence(card: Card) -> str:
    return f"{card.license}, that of the base model" if card.license else "that of the base model"
