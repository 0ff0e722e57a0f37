"""The same speech in other surroundings: light noise, and the echo of a room, put into log-mel energies.

Energies of sounds that have nothing to do with each other add up, so no audio has to be kept or transformed again. A
room's late echo decays by 60 dB in its reverberation time (Sabine); its energy is what was said before, ever fainter.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from idiolect.whisper import HOP_SAMPLES, RATE_HZ

if TYPE_CHECKING:
    import torch

SNR_DB = (15.0, 40.0)
STEEPEST_TILT = 1.5  # of the noise towards low bands: 0 is white
T60_S = (0.15, 0.5)
ECHO_DB = (-15.0, -6.0)  # the echo's energy, of the speech's
_FRAME_S = HOP_SAMPLES / RATE_HZ
_ECHO_FRAMES = 40
_LEAST = 1e-10  # energies are floored there


def noisy(mel: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Log10 mel energies (n_mels, frames), float32, with steady noise 15 to 40 dB under the clip's mean."""
    import torch

    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    power = 10**mel
    shape = torch.arange(1, len(mel) + 1, dtype=mel.dtype) ** -rng.uniform(0.0, STEEPEST_TILT)
    level = float(power.mean()) * 10 ** (-rng.uniform(*SNR_DB) / 10)
    # a band's energy in a frame is that of a few bins, each distributed exponentially
    draws = torch.empty(2, *mel.shape).exponential_(generator=generator).mean(dim=0)
    return (power + draws * (level * shape / shape.mean())[:, None]).clamp(min=_LEAST).log10()


def echoing(mel: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The same energies with the late echo of a room whose reverberation time is 0.15 to 0.5 s."""
    import torch

    decay = 10 ** (-6 * _FRAME_S / rng.uniform(*T60_S))
    tail = decay ** torch.arange(_ECHO_FRAMES, 0, -1, dtype=mel.dtype)  # oldest first, as conv1d correlates
    tail *= 10 ** (rng.uniform(*ECHO_DB) / 10) / tail.sum()
    power = torch.nn.functional.pad(10**mel, (_ECHO_FRAMES, 0))[:, None]
    kernel = torch.cat([tail, torch.ones(1)])[None, None]
    return torch.nn.functional.conv1d(power, kernel)[:, 0].clamp(min=_LEAST).log10()
