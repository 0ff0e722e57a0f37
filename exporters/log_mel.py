"""Whisper's log-mel features in numpy, for runtimes that take features and bring no torch along."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from idiolect.whisper import HOP_SAMPLES, MAX_SAMPLES, N_FFT, mel_filterbank

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from idiolect.transcriber import Pcm

    Floats = npt.NDArray[np.float32]


def log_mel(pcm: Pcm, n_mels: int, positions: int) -> Floats:
    """float32 (n_mels, 2 * positions) of 1-D float32 PCM at 16 kHz, padded with silence, cut at 30 s.

    The audio is mirrored at its start, as openai/whisper's `log_mel_spectrogram` has it; what follows its own frames is
    the floor that silence has. Values are floored 8 below the top and scaled.
    """
    import numpy as np

    frames, samples = 2 * positions, pcm[:MAX_SAMPLES]
    head = samples[1 : N_FFT // 2 + 1][::-1]
    padded = np.zeros((frames - 1) * HOP_SAMPLES + N_FFT, np.float32)
    padded[N_FFT // 2 - len(head) : N_FFT // 2] = head
    body = padded[N_FFT // 2 :]
    body[: len(samples)] = samples[: len(body)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_SAMPLES]
    filters, hann = _constants(n_mels)
    spectrum = np.fft.rfft(windows * hann)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
    logs = np.log10(np.maximum(filters @ power.T, np.float32(1e-10)))
    logs[:, math.ceil(len(samples) / HOP_SAMPLES) + 1 :] = -10
    floored = np.maximum(logs, logs.max() - np.float32(8))
    scaled: Floats = (floored + np.float32(4)) / np.float32(4)
    return scaled


@cache
def _constants(n_mels: int) -> tuple[Floats, Floats]:
    """Mel filters (n_mels, 201) and the periodic Hann window (400,)."""
    import numpy as np

    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    return np.array(mel_filterbank(n_mels), np.float32), hann.astype(np.float32)
