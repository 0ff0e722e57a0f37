"""The token embedding in training: only the rows that matter.

A row of zeros belongs to a token the stock model never met. Where the texts do not need it either, all such rows
are trained as one shared row, which adds `log(count)` to the logit: the same softmax at a fraction of the work.
OpenAI's models have no such rows; there all of them are trained as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAMES = ("trained_rows", "shared_row")


class Rows:
    """Embeds token ids and projects decoder states through the rows of `model`'s token embedding that are trained."""

    def __init__(self, model: Any, needed: set[int]) -> None:  # noqa: ANN401
        import torch

        decoder = model.model.decoder
        self._embedding = decoder.embed_tokens
        whole = self._embedding.weight
        kept = whole.detach().abs().sum(dim=1) > 0
        kept[sorted(needed)] = True
        self._kept = kept
        self._silent = int((~kept).sum())
        self._place = kept.cumsum(0) - 1
        self.parameters: list[Any] = [whole]
        if self._silent:
            whole.requires_grad_(False)
            own = torch.nn.Parameter(whole.detach()[kept].clone())
            shared = torch.nn.Parameter(torch.zeros_like(whole[0]))
            self.parameters = [own, shared]
            for name, parameter in zip(NAMES, self.parameters, strict=True):
                decoder.register_parameter(name, parameter)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings (…, d_model) of token ids."""
        import torch

        return torch.nn.functional.embedding(self.places(tokens), self.parameters[0])

    def places(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where token ids stand among the logits."""
        places: torch.Tensor = self._place.to(tokens.device)[tokens]
        return places

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(N, rows) logits of decoder states (N, d_model), with one more column for all rows that share one."""
        import torch

        logits: torch.Tensor = states @ self.parameters[0].T
        if not self._silent:
            return logits
        shared = (states @ self.parameters[1])[:, None] + math.log(self._silent)
        return torch.cat([logits, shared], dim=1)

    def write_back(self) -> None:
        """Put the trained rows where the model's own code looks for them."""
        import torch

        if self._silent:
            weight, kept = self._embedding.weight, self._kept.to(self._embedding.weight.device)
            with torch.no_grad():
                weight[kept] = self.parameters[0]
                weight[~kept] = self.parameters[1]
