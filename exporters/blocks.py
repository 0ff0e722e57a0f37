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
_LEAST_NORMAL_F16 = np.uint32(0x38800000)  # 2**-14, as float32
_F16_SPAN = np.uint32(0x477FE000 - 0x38800000)  # up to 65504
_SIGN = np.uint32(0x80000000)
_NEARLY_HALF = np.uint32(0x3EFFFFFF)  # 0.5 - 2**-25: with a half, what lies just under a half would reach 1


def via_f16(values: Floats) -> Floats:
    """The float32 values rounded to float16 and back; what is too large becomes infinite."""
    bits = values.view(np.uint32)
    whole = bits >> np.uint32(13)  # 13 bits of the fraction go, half to even; numpy's float16 takes four times as long
    whole &= np.uint32(1)
    whole += bits
    whole += np.uint32(0xFFF)
    whole &= np.uint32(0xFFFFE000)
    rounded: Floats = whole.view(np.float32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    magnitude -= _LEAST_NORMAL_F16
    rare = np.flatnonzero(magnitude > _F16_SPAN)
    with np.errstate(over="ignore"):
        rounded.flat[rare] = values.flat[rare].astype(np.float16)
    return rounded


def quantize(values: Floats, quantization: str) -> Bytes:
    """Blocks (blocks, bytes) in q4_0, q4_1, q5_0, q5_1 or q8_0 of 1-D finite float32 values, a multiple of 32 long."""
    # A block to the column: numpy then works along thousands of blocks at once, twice as fast as along 32 weights.
    return _QUANTIZERS[quantization](np.array(values.reshape(-1, BLOCK).T, order="C"))


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
    scale = np.abs(np.maximum(x.max(axis=0), -x.min(axis=0))) / np.float32(127)  # abs: never -0
    x *= _inverse(scale)
    half = x.view(np.uint32) & _SIGN
    half |= _NEARLY_HALF
    x += half.view(np.float32)  # and cut: C's roundf, which goes away from zero at ties
    return np.hstack([_f16_bytes(scale), x.astype(np.int8).view(np.uint8).T])


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
    high, low = x.max(axis=0), x.min(axis=0)
    extreme = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)  # ggml takes whichever comes first
    extreme[tied] = x[np.abs(x[:, tied]).argmax(axis=0), tied]
    scale = (extreme + np.float32(0)) / np.float32(-half)  # the sum turns -0 into the 0 that ggml starts from
    x *= _inverse(scale)
    x += np.float32(half + 0.5)
    return scale, np.minimum(x.astype(np.uint8), np.uint8(2 * half - 1))


def _affine(x: Floats, bits: int) -> tuple[Floats, Floats, Bytes]:
    """Scale, minimum and codes that spread over the block's range."""
    top = (1 << bits) - 1
    low = x.min(axis=0)
    zero = np.flatnonzero(low == 0)  # 0 or -0: ggml keeps the sign of whichever comes first
    low[zero] = x[(x[:, zero] == 0).argmax(axis=0), zero]
    scale = np.abs(x.max(axis=0) - low) / np.float32(top)  # abs: never -0
    x -= low
    x *= _inverse(scale)
    x += np.float32(0.5)
    return scale, low, np.minimum(x.astype(np.uint8), np.uint8(top))


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(scale != 0, np.float32(1) / scale, np.float32(0))


def _f16_bytes(scale: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        return scale.astype("<f2").view(np.uint8).reshape(-1, 2)


def _nibbles(codes: Bytes) -> Bytes:
    """The low four bits: weight j in the low half of byte j, weight j + 16 in its high half."""
    return ((codes[:16] & np.uint8(15)) | (codes[16:] << np.uint8(4))).T


def _fifth_bits(codes: Bytes) -> Bytes:
    """The fifth bits of 32 weights as one little-endian 32-bit number."""
    bits = (codes >> np.uint8(4)).reshape(4, 8, -1) << np.arange(8, dtype=np.uint8)[:, None]
    return np.asarray(np.bitwise_or.reduce(bits, axis=1).T)
