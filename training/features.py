"""Log-mel features at a clip's true length, and batches of clips of similar length.

Same numbers as openai/whisper's `log_mel_spectrogram` and transformers' WhisperFeatureExtractor on the audio's own
frames; what pads a clip is the floor that silence has there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from idiolect.whisper import HOP_SAMPLES, MAX_FRAMES, MAX_POSITIONS, MAX_SAMPLES, N_FFT, mel_filterbank

if TYPE_CHECKING:
    import torch

    from idiolect.transcriber import Pcm

SILENCE = -10.0  # log10 of the 1e-10 under which Whisper clips mel energies


class LogMel:
    """Makes log-mel features for models with `n_mels` (80 or 128) bins."""

    def __init__(self, n_mels: int) -> None:
        import torch

        self.n_mels = n_mels
        self._filters = torch.tensor(mel_filterbank(n_mels), dtype=torch.float32)
        self._window = torch.hann_window(N_FFT)

    def __call__(self, pcm: Pcm) -> torch.Tensor:
        """float32 (n_mels, ceil(n/160) + 1) log10 mel energies of 1-D float32 PCM, before the floor is applied.

        The one extra frame holds the tail of the last window; audio past 30 s is cut.
        """
        import torch

        samples = torch.from_numpy(pcm[:MAX_SAMPLES].copy())
        n_frames = min(MAX_FRAMES, math.ceil(len(samples) / HOP_SAMPLES) + 1)
        head = samples[1 : N_FFT // 2 + 1].flip(0)
        head = torch.nn.functional.pad(head, (N_FFT // 2 - len(head), 0))
        needed = (n_frames - 1) * HOP_SAMPLES + N_FFT
        padded = torch.nn.functional.pad(torch.cat([head, samples]), (0, max(0, needed - len(head) - len(samples))))
        spectrum = torch.stft(
            padded[:needed], N_FFT, HOP_SAMPLES, window=self._window, center=False, return_complex=True
        )
        energies = self._filters @ spectrum.abs().square()
        return energies.clamp(min=1e-10).log10()


def stack(mels: Sequence[torch.Tensor], positions: int) -> torch.Tensor:
    """float32 (B, n_mels, 2 * positions): padded with silence, floored 8 below each clip's top, scaled as Whisper."""
    import torch

    batch = torch.full((len(mels), mels[0].shape[0], 2 * positions), SILENCE)
    for row, mel in zip(batch, mels, strict=True):
        frames = min(mel.shape[1], row.shape[1])
        row[:, :frames] = mel[:, :frames]
    floor = batch.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(batch, floor) + 4.0) / 4.0


def true_positions(mel: torch.Tensor) -> int:
    """Encoder positions that cover a clip's own frames."""
    return min(MAX_POSITIONS, math.ceil(mel.shape[1] / 2))


def plan_batches(
    positions: Sequence[int], batch_size: int, position_budget: int, rng: random.Random
) -> list[list[int]]:
    """Indices of every clip once, in batches of similar length, in random order.

    A batch holds at most `batch_size` clips, and at most `position_budget` encoder positions after padding to its
    longest clip (but always one clip), so that memory is bounded whatever the clips are.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i] * rng.uniform(0.9, 1.1))
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, positions[index])
        if not batches or len(batches[-1]) >= batch_size or longest * (len(batches[-1]) + 1) > position_budget:
            batches.append([])
            longest = positions[index]
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches


def stretch(mel: torch.Tensor, factor: float) -> torch.Tensor:
    """The same speech `factor` times as long at the same pitch: log-mel frames interpolated in time."""
    from torch.nn.functional import interpolate

    frames = min(MAX_FRAMES, max(2, round(mel.shape[1] * factor)))
    return interpolate(mel[None], size=frames, mode="linear", align_corners=True)[0]


def mask_spectrum(batch: torch.Tensor, rng: random.Random, widest_mels: int = 12, widest_frames: int = 25) -> None:
    """SpecAugment in place on (B, n_mels, frames): one band and one stretch of each clip set to the clip's mean."""
    for clip in batch:
        mean = clip.mean()
        band, stretch = rng.randint(0, widest_mels), rng.randint(0, widest_frames)
        first_mel = rng.randint(0, clip.shape[0] - band)
        first_frame = rng.randint(0, max(0, clip.shape[1] - stretch))
        clip[first_mel : first_mel + band] = mean
        clip[:, first_frame : first_frame + stretch] = mean
