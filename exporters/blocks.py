"""ggml's block quantisers in numpy: 32 weights share one or two f16 scales.

Bit-identical to ggml's reference quantisers for values that a float16 can hold, which is what whisper.cpp's own
converter feeds them (`via_f16`). Source: ggml-org/ggml `src/ggml-quants.c`, `src/ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
BLOCK = 32


def via_f16(values: Floats) -> Floats:
    """The float32 values rounded to float16 and back; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def quantize(values: Floats, quantization: str) -> Bytes:
    """Blocks (blocks, bytes) in q4_0, q4_1, q5_0, q5_1 or q8_0 of 1-D finite float32 values, a multiple of 32 long."""
    return _QUANTIZERS[quantization](values.reshape(-1, BLOCK))


def _q4_0(x: Floats) -> Bytes:
    scale, codes = _symmetric(x, 4)
    return np.hstack([_f16_bytes(scale), _nibbles(codes)])


def _q4_1(x: Floats) -> Bytes:
    scale, low, codes = _affine(x, 4)
    return np.hstack([_f16_bytes(scale), _f16_bytes(low), _nibbles(codes)])


def _q5_0(x: Floats) -> Bytes:
    scale, codes = _symmetric(x, 5)
    return np.hstack([_f16_bytes(scale), _fifth_bits(codes), _nibbles(codes)])


def _q5_1(x: Floats) -> Bytes:
    scale, low, codes = _affine(x, 5)
    return np.hstack([_f16_bytes(scale), _f16_bytes(low), _fifth_bits(codes), _nibbles(codes)])


def _q8_0(x: Floats) -> Bytes:
    scale = np.abs(x).max(axis=1) / np.float32(127)
    scaled = x * _inverse(scale)[:, None]
    # C's roundf goes away from zero at ties, numpy's rint to even; truncating after adding a half is not the same,
    # because the sum of 0.49999997 and 0.5 rounds up.
    whole = np.trunc(scaled)
    whole += np.copysign((np.abs(scaled - whole) >= 0.5).astype(np.float32), scaled)
    return np.hstack([_f16_bytes(scale), whole.astype(np.int8).view(np.uint8)])


_QUANTIZERS: dict[str, Callable[[Floats], Bytes]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
}


def _symmetric(x: Floats, bits: int) -> tuple[Floats, Bytes]:
    """Scale and codes where the weight of largest magnitude, with its sign, gets the lowest code."""
    half = 1 << (bits - 1)
    high, low = x.max(axis=1), x.min(axis=1)
    extreme = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)  # ggml takes whichever comes first
    extreme[tied] = x[tied, np.abs(x[tied]).argmax(axis=1)]
    scale = (extreme + np.float32(0)) / np.float32(-half)  # the sum turns -0 into the 0 that ggml starts from
    codes = x * _inverse(scale)[:, None]
    codes += np.float32(half + 0.5)
    return scale, np.minimum(codes.astype(np.uint8), np.uint8(2 * half - 1))


def _affine(x: Floats, bits: int) -> tuple[Floats, Floats, Bytes]:
    """Scale, minimum and codes that spread over the block's range."""
    top = (1 << bits) - 1
    low = x.min(axis=1)
    zero = np.flatnonzero(low == 0)  # 0 or -0: ggml keeps the sign of whichever comes first
    low[zero] = x[zero, (x[zero] == 0).argmax(axis=1)]
    scale = np.abs(x.max(axis=1) - low) / np.float32(top)  # abs: never -0
    codes = (x - low[:, None]) * _inverse(scale)[:, None]
    codes += np.float32(0.5)
    return scale, low, np.minimum(codes.astype(np.uint8), np.uint8(top))


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scale != 0, np.float32(1) / scale, np.float32(0))


def _f16_bytes(scale: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        return scale.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: Bytes) -> Bytes:
    """The low four bits: weight j in the low half of byte j, weight j + 16 in its high half."""
    return (codes[:, :16] & np.uint8(15)) | (codes[:, 16:] << np.uint8(4))


def _fifth_bits(codes: Bytes) -> Bytes:
    """The fifth bits of 32 weights as one little-endian 32-bit number."""
    return np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
