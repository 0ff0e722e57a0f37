"""The token embedding in training: only the rows that matter.

A row of zeros belongs to a token the stock model never met. Where the texts do not need it either, it stays zero, its
logit stays 0, and all such rows together add `log(count)` to the log-sum: exact, and for nano most of the work saved.
OpenAI's models have no such rows; there all of them are trained as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "trained_rows"


class Rows:
    """Embeds token ids and projects decoder states through the rows of `model`'s token embedding that are trained."""

    def __init__(self, model: Any, needed: set[int]) -> None:  # noqa: ANN401
        import torch

        self._embedding = model.model.decoder.embed_tokens
        whole = self._embedding.weight
        kept = whole.detach().abs().sum(dim=1) > 0
        kept[sorted(needed)] = True
        self._ids = kept.nonzero().flatten()
        self._silent = len(whole) - len(self._ids)
        self._place = kept.cumsum(0) - 1
        self.weight = whole
        if self._silent:
            whole.requires_grad_(False)
            self.weight = torch.nn.Parameter(whole.detach()[self._ids].clone())
            model.model.decoder.register_parameter(NAME, self.weight)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings (…, d_model) of token ids."""
        import torch

        return torch.nn.functional.embedding(self.places(tokens), self.weight)

    def places(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where token ids stand among the logits."""
        places: torch.Tensor = self._place.to(tokens.device)[tokens]
        return places

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(N, rows) logits of decoder states (N, d_model), with one more column for all silent rows."""
        import torch

        logits: torch.Tensor = states @ self.weight.T
        if not self._silent:
            return logits
        rest = torch.full((len(logits), 1), math.log(self._silent), device=logits.device, dtype=logits.dtype)
        return torch.cat([logits, rest], dim=1)

    def write_back(self) -> None:
        """Put the trained rows where the model's own code looks for them."""
        import torch

        if self._silent:
            with torch.no_grad():
                self._embedding.weight[self._ids.to(self._embedding.weight.device)] = self.weight
