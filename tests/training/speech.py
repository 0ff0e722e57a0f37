"""Decoded demo clips for tests of the training room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from training.audio import decode

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


def shipped(voices: Path, voice: str, count: int) -> list[tuple[str, Pcm, str]]:
    """(name, PCM, text) of the first `count` clips of a voice."""
    rows = [json.loads(line) for line in (voices / voice / "metadata.jsonl").read_text().splitlines()[:count]]
    return [(row["file_name"], decode(voices / voice / row["file_name"]), row["text"]) for row in rows]
