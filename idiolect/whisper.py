"""Whisper's fixed numbers: rates, frames, token ids, mel filters.

Sources: openai/whisper `audio.py` and `tokenizer.py`; whisper.cpp `src/whisper.cpp` (token ids follow from the
vocabulary size); futo-org/android-keyboard `WhisperGGML.cpp` (audio context).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

RATE_HZ = 16_000
N_FFT = 400
HOP_SAMPLES = 160  # one mel frame
SAMPLES_PER_POSITION = 320  # one encoder position: the second convolution has stride 2
MAX_S = 30.0
MAX_SAMPLES = 480_000
MAX_FRAMES = 3_000
MAX_POSITIONS = 1_500
MAX_TEXT_POSITIONS = 448

LANGUAGES = tuple(
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue".split()
)
"""Language codes in the order of their tokens; the last, `yue`, exists from large-v3 on."""


def audio_context(n_samples: int) -> int:
    """Encoder positions FUTO Keyboard uses for `n_samples` of 16 kHz audio: `clamp(ceil(n/320) + 32, 160, 1500)`."""
    return min(MAX_POSITIONS, max(160, math.ceil(n_samples / SAMPLES_PER_POSITION) + 32))


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, as whisper.cpp computes them from the vocabulary size."""

    n_vocab: int
    eot: int
    sot: int
    n_languages: int
    translate: int
    transcribe: int
    no_timestamps: int
    timestamp_begin: int

    @property
    def multilingual(self) -> bool:
        return self.n_vocab >= 51_865

    def language(self, code: str) -> int:
        """Token id of a language code. Raises KeyError with the code when this vocabulary does not have it."""
        if code not in LANGUAGES[: self.n_languages]:
            raise KeyError(code)
        return self.sot + 1 + LANGUAGES.index(code)

    def prompt(self, language: str, *, timestamps: bool = False) -> list[int]:
        """The forced start of a transcript: sot, language and task where the model is multilingual, notimestamps."""
        head = [self.sot, self.language(language), self.transcribe] if self.multilingual else [self.sot]
        return head if timestamps else [*head, self.no_timestamps]


def special_tokens(n_vocab: int) -> SpecialTokens:
    """Special tokens for one of the three Whisper vocabularies: 51864 (.en), 51865, 51866 (large-v3)."""
    if n_vocab not in {51_864, 51_865, 51_866}:
        raise ValueError(f"vocabulary of {n_vocab} tokens is not Whisper's (51864, 51865 or 51866)")
    multilingual = n_vocab >= 51_865
    n_languages = n_vocab - 51_765 - multilingual
    shift = (n_languages - 98) if multilingual else 0
    base = 50_257 if multilingual else 50_256
    return SpecialTokens(
        n_vocab=n_vocab,
        eot=base,
        sot=base + 1,
        n_languages=n_languages,
        translate=50_357 + shift,
        transcribe=50_358 + shift,
        no_timestamps=50_362 + shift,
        timestamp_begin=50_363 + shift,
    )


def mel_filterbank(n_mels: int, published: bool = False) -> list[list[float]]:
    """`n_mels` rows of 201 triangular filter weights: Slaney mel scale and area norm, 0–8000 Hz, FFT of 400 at 16 kHz.

    The same numbers as librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels) before its rounding to float32;
    `published`: with it, which gives to the bit the filters of the openai-whisper package once they are float32.
    """
    n_bins = N_FFT // 2 + 1
    top = _hz_to_mel(RATE_HZ / 2)
    corners_hz = [_mel_to_hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    rows = []
    for low, centre, high in zip(corners_hz, corners_hz[1:], corners_hz[2:], strict=False):
        norm = 2.0 / (high - low)
        row = []
        for k in range(n_bins):
            hz = k * RATE_HZ / N_FFT
            height = min(-(low - hz) / (centre - low), (high - hz) / (high - centre))
            height = 0.0 if height < 0 else height
            row.append(norm * (struct.unpack("<f", struct.pack("<f", height))[0] if published else height))
        rows.append(row)
    return rows


_LINEAR_HZ_PER_MEL = 200.0 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _LOG_FROM_MEL + math.log(hz / _LOG_FROM_HZ) / _LOG_STEP


def _mel_to_hz(mel: float) -> float:
    if mel < _LOG_FROM_MEL:
        return mel * _LINEAR_HZ_PER_MEL
    return _LOG_FROM_HZ * math.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
