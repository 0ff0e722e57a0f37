"""What the worker is asked about a recording, and what it answers: one JSON line each way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.split import Side

State = Literal["ready", "waiting", "rejected"]

READY_LINE = "ready"
"""The worker's first line: whatever ends it later was in a recording."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_Line):
    """Read this recording. `pcm_sha256` and `duration_s` are known where only its text changed."""

    path: Path
    folder: Path
    pcm_sha256: str | None = None
    duration_s: float | None = None


class ReadClip(_Line):
    """One clip as it was found; `side` only where the user's folder declares one."""

    start_s: float
    end_s: float | None
    duration_s: float
    pcm_sha256: str
    text: str
    language: str | None = None
    side: Side | None = None


class Reading(_Line):
    """What a recording holds.

    `reason` says in plain words why it is waiting or rejected, or what of a ready one was left out. `pcm_sha256`
    is set for audio that was decoded whole. `retry`: the cause may pass without the file changing.
    """

    state: State
    reason: str = ""
    duration_s: float | None = None
    pcm_sha256: str | None = None
    clips: tuple[ReadClip, ...] = ()
    retry: bool = False
