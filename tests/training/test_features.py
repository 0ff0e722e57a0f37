"""Log-mel against transformers' own extractor, padding, and batches under a budget."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from training.features import plan_batches

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

pytestmark = pytest.mark.torch


def _tone(seconds: float, rate_hz: int = 16_000) -> Pcm:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * time_s) * time_s)).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_padded_to_30_s_is_whispers(n_mels: int) -> None:
    from transformers import WhisperFeatureExtractor

    from training.features import LogMel, stack

    noise = np.random.default_rng(0).normal(0, 1e-3, round(2.345 * 16_000))
    pcm = (_tone(2.345) + noise).astype(np.float32)
    extract = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extract(pcm, sampling_rate=16_000).input_features[0]
    ours = stack([LogMel(n_mels)(pcm)], 1500)[0].numpy()
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-3


def test_stack_pads_each_clip_with_its_own_floor() -> None:
    from training.features import LogMel, stack, true_positions

    mels = [LogMel(80)(_tone(1.0)), LogMel(80)(_tone(2.0) * 0.01)]
    assert [true_positions(mel) for mel in mels] == [51, 101]
    batch = stack(mels, 160)
    assert batch.shape == (2, 80, 320)
    for clip in batch:
        assert float(clip[:, -1].max()) == pytest.approx(float(clip.min()))
        assert float(clip.max() - clip.min()) <= 2.0 + 1e-6


def test_audio_shorter_than_a_window_still_makes_frames() -> None:
    from training.features import LogMel

    assert LogMel(80)(np.full(50, 0.1, np.float32)).shape == (80, 2)


def test_batches_hold_every_clip_once_and_keep_the_budget() -> None:
    rng = random.Random(1)
    positions = [rng.randint(50, 1500) for _ in range(200)]
    batches = plan_batches(positions, 16, 6_000, random.Random(2))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) == 1 or max(positions[i] for i in batch) * len(batch) <= 6_000


def test_a_clip_over_the_budget_gets_a_batch_of_its_own() -> None:
    assert sorted(plan_batches([1500, 100], 16, 1_000, random.Random(0))) == [[0], [1]]


def test_the_same_seed_plans_the_same_batches() -> None:
    positions = list(range(100, 150))
    assert plan_batches(positions, 4, 6_000, random.Random(5)) == plan_batches(positions, 4, 6_000, random.Random(5))


def test_masking_changes_some_of_each_clip_and_keeps_the_shape() -> None:
    import torch

    from training.features import mask_spectrum

    batch = torch.randn(3, 80, 100)
    masked = batch.clone()
    mask_spectrum(masked, random.Random(3))
    assert masked.shape == batch.shape
    assert 0 < float((masked != batch).float().mean()) < 0.6
