"""Block quantisers against ggml's own C code, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import blocks
from exporters.layout import QUANTIZATIONS
from tests.exporters.helpers import Floats, ggml_quantize

QUANTISED = [name for name, quantization in QUANTIZATIONS.items() if quantization.block > 1]


def _cases() -> Floats:
    """Blocks of 32 whose rounding, ties, signs or scales are easy to get wrong."""
    random = np.random.default_rng(7)
    normal = random.standard_normal((20_000, 32)) * 10.0 ** random.integers(-9, 5, (20_000, 1))
    special = [
        np.zeros((4, 32)),
        -np.zeros((4, 32)),
        random.choice([0.0, -0.0], (500, 32)),
        np.maximum(normal[:500], 0),
        -np.maximum(normal[:500], 0),
        np.full((4, 32), 1.5),
        np.full((4, 32), -1e-7),
        random.integers(-3, 4, (2000, 32)),  # ties between +m and -m
        random.integers(-15, 16, (2000, 32)) / 2,  # codes that fall on halves
        random.integers(-254, 255, (2000, 32)) / 2,
        random.choice([-65504.0, 65504.0, 0.0, 1.0], (500, 32)),
        2.0**-24 * random.integers(-3, 4, (500, 32)),  # float16's denormals
        np.where(random.random((500, 32)) < 0.05, 1e4, normal[:500]),  # outliers
        np.repeat(np.arange(-32, 32)[:, None], 32, 1) + np.arange(32) / 32,
    ]
    return blocks.via_f16(np.vstack([normal.clip(-65504, 65504), *special]).astype(np.float32)).ravel()


@pytest.mark.whispercpp
@pytest.mark.parametrize("name", QUANTISED)
def test_every_block_is_what_ggml_makes(name: str) -> None:
    values, stored_as = _cases(), QUANTIZATIONS[name]
    expected = ggml_quantize(values, stored_as.type_code, stored_as.block_bytes)
    got = blocks.quantize(values, name)
    different = np.flatnonzero((got != expected).any(axis=1))
    assert got.shape == expected.shape
    assert not len(different), values.reshape(-1, 32)[different[0]]


@pytest.mark.whispercpp
@settings(max_examples=100)
@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=32, max_size=32))
def test_any_block_is_what_ggml_makes(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    for name in QUANTISED:
        stored_as = QUANTIZATIONS[name]
        expected = ggml_quantize(values, stored_as.type_code, stored_as.block_bytes)
        assert blocks.quantize(values, name).tobytes() == expected.tobytes(), name


def test_q4_0_by_hand() -> None:
    """-8 gets code 0 with scale 1; every other whole number from -7 to 7 its own code."""
    values = np.array([-8, *range(-7, 8), *([0] * 16)], np.float32)
    block = blocks.quantize(values, "q4_0")[0]
    assert block[:2].tobytes() == np.float16(1).tobytes()
    assert block[2:].tolist() == [code | 8 << 4 for code in range(16)]


def test_q8_0_rounds_halves_away_from_zero() -> None:
    values = np.array([127, 0.5, -0.5, 1.5, -2.5, *([0] * 27)], np.float32)
    assert blocks.quantize(values, "q8_0")[0, 2:7].view(np.int8).tolist() == [127, 1, -1, 2, -3]


def test_fifth_bits_lie_apart() -> None:
    values = np.array([-16, 15, *([0] * 30)], np.float32)  # codes 0, 31, 16 …
    block = blocks.quantize(values, "q5_0")[0]
    assert block[2:6].tobytes() == (0xFFFF_FFFE).to_bytes(4, "little")
    assert block[6:8].tolist() == [0x00, 0x0F]


def test_via_f16_is_numpys_float16_around_every_one_of_them() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)].view(np.int32)
    near = (every[:, None] + np.array([-4097, -4096, -4095, -1, 0, 1, 4095, 4096, 4097], np.int32)).view(np.float32)
    with np.errstate(over="ignore"):
        expected = near.astype(np.float16).astype(np.float32)
    assert blocks.via_f16(near.ravel()).tobytes() == expected.tobytes()


def test_via_f16_rounds_and_overflows_quietly() -> None:
    got = blocks.via_f16(np.array([1 + 2**-12, 65504, 1e6, -1e6, 1e-9], np.float32))
    assert got.tolist() == [1.0, 65504.0, np.inf, -np.inf, 0.0]
