"""Log-mel is computed once, comes back as it was, and damage is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.training.samples import sound
from training.features import LogMel
from training.mel_cache import MelCache

pytestmark = pytest.mark.torch


def test_features_are_computed_once_for_each_mel_setting(tmp_path: Path) -> None:
    import torch

    pcm = sound(2.0)
    for n_mels in (80, 128):
        log_mel = LogMel(n_mels)
        cache = MelCache(tmp_path)
        fresh = cache.get(pcm, log_mel)
        again = MelCache(tmp_path)
        assert torch.equal(again.get(pcm, log_mel), fresh)
        assert torch.equal(fresh, log_mel(pcm).half())
        assert (cache.computed, again.computed) == (1, 0)
    assert len(list(tmp_path.glob("*/*.mel"))) == 2


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    import torch

    pcm, log_mel = sound(1.0), LogMel(80)
    cache = MelCache(tmp_path)
    fresh = cache.get(pcm, log_mel)
    entry = next(tmp_path.glob("*/*.mel"))
    whole = entry.read_bytes()
    for damaged in (whole[:-2], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b""):
        entry.write_bytes(damaged)
        assert torch.equal(cache.get(pcm, log_mel), fresh)
        assert entry.read_bytes() == whole
    assert cache.computed == 4


def test_the_entries_unused_for_longest_go_first(tmp_path: Path) -> None:
    log_mel = LogMel(80)
    cache = MelCache(tmp_path, max_bytes=40_000)
    for seed in range(3):
        cache.get(sound(1.0, seed=seed), log_mel)
    for age_s, entry in enumerate(tmp_path.glob("*/*.mel")):
        os.utime(entry, (1_000_000 - age_s, 1_000_000 - age_s))
    cache.get(sound(1.0, seed=1), log_mel)
    cache.trim()
    kept = MelCache(tmp_path)
    kept.get(sound(1.0, seed=1), log_mel)
    assert kept.computed == 0
    assert sum(entry.stat().st_size for entry in tmp_path.glob("*/*.mel")) <= 40_000
