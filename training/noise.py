"""Noise that makes clips harder to understand by a known measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


def add_noise(pcm: Pcm, snr_db: float, seed: int = 0) -> Pcm:
    """1-D float32 PCM in speech-shaped noise, `snr_db` below (above, where negative) the clip's mean power.

    The noise has the clip's own spectrum with random phases, as a crowd of this voice would sound: it covers all
    frequencies of the speech alike. The same clip, ratio and seed give the same noise. Silence stays as it is.
    """
    import numpy as np

    spectrum = np.fft.rfft(pcm)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(spectrum))
    noise = np.fft.irfft(np.abs(spectrum) * np.exp(1j * phases), len(pcm))
    power, noise_power = float(np.mean(np.square(pcm, dtype=np.float64))), float(np.mean(np.square(noise)))
    if not power or not noise_power:
        return pcm
    noisy = pcm + noise * np.sqrt(power / noise_power) * 10 ** (-snr_db / 20)
    return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), dtype=np.float32)
