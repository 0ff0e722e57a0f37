"""Noise of a known measure."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.samples import sound
from training.noise import add_noise


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0])
def test_noise_lies_as_far_below_the_voice_as_asked(snr_db: float) -> None:
    pcm = 0.1 * sound(2.0)
    noise = add_noise(pcm, snr_db) - pcm
    assert 10 * np.log10(np.mean(pcm**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.1)


def test_noise_has_the_spectrum_of_the_voice_and_another_shape() -> None:
    pcm = 0.1 * sound(2.0)
    noise = add_noise(pcm, 0.0) - pcm
    np.testing.assert_allclose(np.abs(np.fft.rfft(noise))[1:-1], np.abs(np.fft.rfft(pcm))[1:-1], atol=0.05)
    assert not np.allclose(noise, pcm, atol=0.01)


def test_the_same_seed_gives_the_same_noise_and_no_sample_leaves_the_range() -> None:
    pcm = sound(1.0)
    np.testing.assert_array_equal(add_noise(pcm, 0.0, 7), add_noise(pcm, 0.0, 7))
    assert not np.array_equal(add_noise(pcm, 0.0, 7), add_noise(pcm, 0.0, 8))
    loud = add_noise(3 * pcm, -20.0)
    assert loud.dtype == np.float32
    assert np.abs(loud).max() <= 1.0


def test_silence_stays_silence() -> None:
    silence = np.zeros(16_000, np.float32)
    np.testing.assert_array_equal(add_noise(silence, 0.0), silence)
