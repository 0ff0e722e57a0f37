"""A sound's fingerprint: the same take in another format, louder or trimmed is known by it, another take is not.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): one byte a frame, each bit the
sign of how the difference of two neighbouring bands' energies changed since the frame before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from idiolect.whisper import RATE_HZ

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

HOP_S = 0.025
WINDOW_S = 0.4
"""Each frame looks at so much, so that half a hop of misalignment changes little."""
TAKE = "nearly the same take as "
SAME_BITS = 0.07
"""Share of differing bits below which two sounds are one take. A person's other takes differ in 0.28 and more."""
MIN_FRAMES = 20
_MAX_SHIFT_FRAMES = 40
_FLOOR, _STILL = 1e-4, 0.01  # what is silent, or stays as it is, has no bits set: lossy formats change it most
_BANDS = 9
_LOW_HZ, _HIGH_HZ = 300.0, 3000.0


def fingerprint(pcm: Pcm) -> bytes:
    """One byte every `HOP_S` of 16 kHz samples; empty for less than `WINDOW_S`."""
    import numpy as np

    hop, spread = round(HOP_S * RATE_HZ), round(WINDOW_S / HOP_S)
    frames = pcm[: pcm.size // hop * hop].reshape(-1, hop)
    if len(frames) <= spread:
        return b""
    hann, bands = _analysis(hop)
    power = np.square(np.abs(np.fft.rfft(frames * hann, axis=1))) @ bands
    sums = np.cumsum(power, axis=0, dtype=np.float64)
    energies = sums[spread:] - sums[:-spread]
    energies = np.log(energies + _FLOOR * energies.max() + 1e-12)
    bits = np.diff(np.diff(energies, axis=1), axis=0) > _STILL
    return bytes(np.packbits(bits, axis=1)[:, 0])


def difference(one: bytes, other: bytes) -> float:
    """Share of bits, 0 to 1, in which two fingerprints differ where they match best; 1 where they cannot be compared.

    The shorter must lie in the longer, give or take a second at the ends.
    """
    if len(one) > len(other):
        one, other = other, one
    if len(one) < MIN_FRAMES or len(other) - len(one) > _MAX_SHIFT_FRAMES:
        return 1.0
    best = 1.0
    for shift in range(-_MAX_SHIFT_FRAMES, _MAX_SHIFT_FRAMES + 1):
        mine, theirs = one[max(0, -shift) :], other[max(0, shift) :]
        length = min(len(mine), len(theirs))
        if length >= max(MIN_FRAMES, len(one) * 3 // 4):
            differing = int.from_bytes(mine[:length]) ^ int.from_bytes(theirs[:length])
            best = min(best, differing.bit_count() / (8 * length))
    return best


def nearly_the_same(path: str, differing: float) -> str:
    """What to say of a recording whose `difference` from the one at `path` is below `SAME_BITS`."""
    return f"{TAKE}{path} (by {differing:.0%}): keep one"


def take_named(told: str) -> str:
    """The path in what `nearly_the_same` said; "" in anything else."""
    found = re.fullmatch(rf"{TAKE}(.*) \(by \d+%\): keep one", told, re.DOTALL)
    return found[1] if found else ""


@lru_cache(maxsize=1)
def _analysis(hop: int) -> tuple[Any, Any]:
    """The Hann window, and (bins, bands) of equal width on a logarithmic scale."""
    import numpy as np

    edges = np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1)
    hz = np.fft.rfftfreq(hop, 1 / RATE_HZ)
    bands = (hz[:, None] >= edges[:-1]) & (hz[:, None] < edges[1:])
    return np.hanning(hop).astype(np.float32), bands.astype(np.float32)
