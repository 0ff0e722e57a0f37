"""The select clips: how much of them a model in training gets wrong, by which its best weights are chosen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from idiolect.child import Reporter
from idiolect.whisper import MAX_POSITIONS, SpecialTokens
from training.decode import encode, greedy
from training.examples import Example
from training.features import plan_batches, stack
from training.memory import is_shortage
from training.scoring import ratio

MAX_CLIPS = 64  # enough to choose by; decoding them after each epoch must stay cheap
_MOST_AT_ONCE = 32


class Selection:
    """Up to MAX_CLIPS of `clips`, decoded with at most `positions` of the encoder at once."""

    def __init__(self, clips: Sequence[Example], special: SpecialTokens, positions: int, reporter: Reporter) -> None:
        self._clips, self._special, self._reporter = clips[:MAX_CLIPS], special, reporter
        self._positions = positions

    def errors(self, model: Any) -> tuple[float, float]:  # noqa: ANN401
        """Token errors per token, decoded greedily at the clips' own length, and its standard error.

        Greedy decoding, because a model can be sure of every next word and still run away from the audio. Where memory
        runs out, half as much is decoded at once from then on; raises the shortage when that is less than one window.
        """
        while True:
            try:
                return self._errors(model.eval())
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error) or self._positions < MAX_POSITIONS:
                    raise
            self._positions //= 2
            self._reporter.warning("out of memory while choosing the best weights: half as much at once from now on")

    def _errors(self, model: Any) -> tuple[float, float]:  # noqa: ANN401
        import torch
        from rapidfuzz.distance import Levenshtein

        errors: list[int] = []
        counts: list[int] = []
        for language in {example.language for example in self._clips}:
            clips = [example for example in self._clips if example.language == language]
            positions = [min(MAX_POSITIONS, clip.positions + 32) for clip in clips]
            prompt = self._special.prompt(language)
            for batch in plan_batches(positions, _MOST_AT_ONCE, self._positions, random.Random(0)):
                here = [clips[index] for index in batch]
                longest = max(len(clip.tokens) for clip in here)
                features = stack([clip.mel.float() for clip in here], max(positions[index] for index in batch))
                with torch.inference_mode():
                    hidden = encode(model, features.to(model.device))
                    heard = greedy(model, hidden, prompt, self._special.eot, max_new_tokens=2 * longest + 8)
                errors += [Levenshtein.distance(clip.tokens, row) for clip, row in zip(here, heard, strict=True)]
                counts += [len(clip.tokens) for clip in here]
        return ratio(errors, counts)
