"""Features in numpy are those that models are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.log_mel import log_mel
from idiolect.whisper import MAX_POSITIONS, audio_context


@pytest.mark.torch
@pytest.mark.parametrize("n_mels", [80, 128])
def test_speech_gives_what_training_sees(voices: Path, n_mels: int) -> None:
    from training.audio import decode
    from training.features import LogMel, stack

    expected_of = LogMel(n_mels)
    for name in ("human/digits_000.ogg", "synthetic/clip003.ogg"):
        pcm = decode(voices / name)
        for positions in (audio_context(len(pcm)), MAX_POSITIONS):
            expected = stack([expected_of(pcm)], positions).numpy()[0]
            found = log_mel(pcm, n_mels, positions)
            assert found.shape == (n_mels, 2 * positions)
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("samples", [0, 1, 150, 201, 480_000, 500_000])
def test_any_length_fits(samples: int) -> None:
    from training.features import LogMel, stack

    pcm = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    positions = audio_context(samples)
    expected = stack([LogMel(80)(pcm)], positions).numpy()[0]
    assert np.abs(log_mel(pcm, 80, positions) - expected).max() < 1e-4


def test_silence_is_even() -> None:
    assert np.abs(log_mel(np.zeros(16_000, np.float32), 80, 160) + 1.5).max() < 1e-6
