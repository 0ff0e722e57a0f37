"""What the worker is asked about a recording, and what it answers: one JSON line each way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.quality import Measures
from training.split import Side

State = Literal["ready", "waiting", "rejected"]

READY_LINE = "ready"
"""The worker's first line: whatever ends it later was in a recording."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sound(_Line):
    """What was heard of a recording that was decoded whole: its digest, training.fingerprint (hex), and measures."""

    pcm_sha256: str
    fingerprint: str
    measures: Measures


class Request(_Line):
    """Read this recording.

    `sound` is known where only its text changed; `language` is that of texts that name none; `still_s` is how long
    nobody has written to it, where that matters.
    """

    path: Path
    folder: Path
    language: str = "en"
    sound: Sound | None = None
    still_s: float | None = None


class ReadClip(_Line):
    """One clip as it was found; `side` only where the user's folder declares one."""

    start_s: float
    end_s: float | None
    duration_s: float
    pcm_sha256: str
    text: str
    language: str | None = None
    side: Side | None = None
    fingerprint: str = ""


class Reading(_Line):
    """What a recording holds.

    `reason` says in plain words why it is waiting or rejected, or what a person should know of a ready one. `sound`
    is set for audio that was decoded whole. `retry`: the cause may pass without the file changing, and will in
    `again_s` where that is set.
    """

    state: State
    reason: str = ""
    duration_s: float | None = None
    sound: Sound | None = None
    clips: tuple[ReadClip, ...] = ()
    retry: bool = False
    again_s: float | None = None
