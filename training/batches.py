"""One optimiser step's clips as tensors, and their loss: drawn whole, so that it can be computed in any parts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from idiolect.whisper import MAX_POSITIONS, SpecialTokens
from training.ctc import CtcHead
from training.decode import encode
from training.examples import IGNORED, Example, collate, stretched
from training.features import mask_spectrum, stack
from training.recipe import Settings
from training.rows import Rows
from training.surroundings import echoing, noisy

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Augmented clips: features float32 (B, n_mels, 2 * positions), decoder inputs and labels int64 (B, longest)."""

    features: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor
    clips: tuple[Example, ...]

    @property
    def positions(self) -> int:
        """Encoder positions of all clips together."""
        return len(self.clips) * self.features.shape[2] // 2

    @property
    def tokens(self) -> int:
        """Tokens that carry loss."""
        return int((self.labels != IGNORED).sum())

    def rows(self, chosen: slice) -> Batch:
        """Some of the clips, padded as before: views, no copies."""
        return Batch(self.features[chosen], self.inputs[chosen], self.labels[chosen], self.clips[chosen])

    def parts(self, position_budget: int) -> list[Batch]:
        """The clips in order, in pieces of at most so many positions, and of at least one clip."""
        size = max(1, position_budget // max(1, self.features.shape[2] // 2))
        return [self.rows(slice(first, first + size)) for first in range(0, len(self.clips), size)]


def draw_batch(
    chosen: Sequence[tuple[Example, int]], special: SpecialTokens, settings: Settings, rng: random.Random
) -> Batch:
    """Augment (clip, context in positions) pairs, timestamps among it. All chance comes from `rng`."""
    spread = settings.stretch
    clips = [_elsewhere(stretched(each, rng.uniform(1 - spread, 1 + spread)), settings, rng) for each, _ in chosen]
    room = max(0, *(context - example.positions for example, context in chosen))
    positions = min(MAX_POSITIONS, max(clip.positions for clip in clips) + room)
    features = stack([clip.mel for clip in clips], positions)
    if rng.random() < settings.mask_share:
        mask_spectrum(features, rng)
    timestamps = [rng.random() < (settings.timestamps_share or 0.0) for _ in clips]
    return Batch(features, *collate(clips, special, timestamps), tuple(clips))


def _elsewhere(example: Example, settings: Settings, rng: random.Random) -> Example:
    for share, surround in ((settings.echo_share, echoing), (settings.noise_share, noisy)):
        if share and rng.random() < share:
            example = replace(example, mel=surround(example.mel, rng))
    return example


class BatchLoss:
    """Summed cross-entropy of a batch's tokens, with the letters' loss beside it where there is a head for it.

    While `new_words_apart` is true, new words' tokens teach their own rows alone.
    """

    new_words_apart = False

    def __init__(self, model: Any, rows: Rows, letters: CtcHead | None, ctc_weight: float) -> None:  # noqa: ANN401
        self._model, self._rows, self._letters, self._ctc_weight = model, rows, letters, ctc_weight

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The sum over all tokens, a float32 scalar."""
        import torch

        device = self._model.device
        hidden = encode(self._model, batch.features.to(device))
        inputs = batch.inputs.to(device)
        states = self._model.model.decoder(
            inputs_embeds=self._rows.embed(inputs),
            attention_mask=torch.ones_like(inputs),  # or the sequence is searched for packed ones, every step
            encoder_hidden_states=hidden,
            use_cache=False,
        ).last_hidden_state
        wanted = batch.labels != IGNORED  # the vocabulary is wide: only project where there is something to learn
        states, targets = states[wanted.to(device)], self._rows.places(batch.labels[wanted].to(device))
        logits = self._rows.logits(self._rows.apart(states, targets) if self.new_words_apart else states)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        if self._letters:
            spelled = self._letters.loss(hidden, [clip.letters for clip in batch.clips])
            weights = torch.tensor([len(clip.tokens) for clip in batch.clips], device=device)
            loss = loss + self._ctc_weight * (spelled * weights).sum()
        return loss
