"""The memory estimate holds against a measured training, and what follows from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.memory import GPU_LIMIT_BYTES, MOST_OFF, SMALL_ON_GPU, measure
from training.memory import MIN_POSITIONS, Need, Shape, at_hand_bytes, estimate_peak_bytes, fit, is_shortage

TINY = Shape(384, 4, 4, 51_865, 37_760_640, 37_184_640)


@pytest.mark.torch
@pytest.mark.skipif(sys.platform != "linux", reason="peak resident memory is read from /proc")
def test_nanos_peak_is_as_estimated(nano: Path, tmp_path: Path) -> None:
    measured, estimate = measure(nano, 3_000, tmp_path / "me")
    assert estimate == pytest.approx(measured, rel=MOST_OFF)


def test_small_fits_a_gpu_of_8_gb() -> None:
    fitted = fit(SMALL_ON_GPU, GPU_LIMIT_BYTES)
    assert estimate_peak_bytes(fitted) <= GPU_LIMIT_BYTES
    assert not fitted.recompute


@pytest.mark.torch
def test_what_a_gpu_holds_already_counts_as_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    weights, context = 4 * SMALL_ON_GPU.shape.parameters, 500_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((8 << 30) - weights - context, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: weights)
    fitted = fit(SMALL_ON_GPU, at_hand_bytes(torch.device("cuda")))
    assert (fitted.positions, fitted.recompute) == (3_000, False)


def test_less_is_computed_at_once_before_anything_is_computed_twice() -> None:
    need = Need(TINY, positions=6_000, tokens=640)
    whole = estimate_peak_bytes(need)
    assert fit(need, whole) == need
    smaller = fit(need, round(0.8 * whole))
    assert MIN_POSITIONS <= smaller.positions < need.positions
    assert not smaller.recompute
    least = fit(need, 0)
    assert least.recompute
    assert estimate_peak_bytes(least) < estimate_peak_bytes(smaller) < whole


@pytest.mark.torch
def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    alone = at_hand_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0 < at_hand_bytes(torch.device("cpu")) < alone / 2


@pytest.mark.torch
def test_the_errors_of_short_memory_are_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_shortage(caught.value)
    assert is_shortage(MemoryError())
    assert is_shortage(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_shortage(RuntimeError("shapes do not fit"))
