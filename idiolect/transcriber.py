"""What every speech model can do, whatever runtime it lives in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pcm: TypeAlias = npt.NDArray[np.float32]

AudioContext: TypeAlias = Literal["dynamic", "full"]


@dataclass(frozen=True)
class Transcription:
    """What was heard. `compute_s` is the time the runtime took, `duration_s` the length of the audio."""

    text: str
    duration_s: float
    compute_s: float


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode.

    `language` is a Whisper code ("en"). `audio_context` "dynamic" cuts the encoder to the audio's length as
    FUTO Keyboard does (`idiolect.whisper.audio_context`); "full" pads to 30 s. `timestamps` asks for `<|t|>` tokens.
    `beam_size`, 1 to 8, is for whisper.cpp alone (FUTO Keyboard: 5); every other runtime decodes greedily, as 1 does.
    """

    language: str = "en"
    audio_context: AudioContext = "dynamic"
    timestamps: bool = False
    beam_size: int = 1


class Transcriber(Protocol):
    """A loaded model. PCM is 1-D float32 in [-1, 1], mono, 16 kHz, at most 30 s a clip."""

    name: str
    runtime: str  # "torch 2.13.0", "whisper.cpp 1.8.5"

    def transcribe(self, pcm: Pcm, options: DecodingOptions = ...) -> Transcription:
        """One clip. Raises RuntimeFailed."""
        ...

    def transcribe_many(self, clips: Sequence[Pcm], options: DecodingOptions = ...) -> Iterator[Transcription]:
        """Many clips, answered in their order, each as soon as it is known. Raises RuntimeFailed."""
        ...

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of the process the model runs in."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...
