"""The token embedding in training: only the rows that matter, those of new words apart.

A row of zeros belongs to a token the stock model never met. Where the texts need it, it is a new word's and must move
fast, while the rows of known words should stay near what they are. Where the texts do not need it either, all such rows
are trained as one shared row, which adds `log(count)` to the logit: the same softmax at a fraction of the work.
OpenAI's models have no such rows; there the embedding is trained as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NEW = ("embed_new", "embed_shared")
NAMES = ("embed_known", *NEW)


def may_be_new(model: Any, tokens: set[int]) -> bool:  # noqa: ANN401
    """Whether `model` may never have met one of these tokens: always where no row is empty, which tells nothing.

    That is so of OpenAI's models, and of one that was taught before.
    """
    met = _met(model)
    return bool(met.all() or not met[sorted(tokens)].all())


class Rows:
    """Embeds token ids and projects decoder states through the rows of `model`'s token embedding that are trained.

    The parameters are registered in the decoder by `NAMES`.
    """

    def __init__(self, model: Any, needed: set[int]) -> None:  # noqa: ANN401
        import torch

        self._embedding = model.model.decoder.embed_tokens
        whole = self._embedding.weight
        met = _met(model)
        wanted = torch.zeros_like(met)
        wanted[sorted(needed)] = True
        new, self._silent = ~met & wanted, ~met & ~wanted
        self._order = torch.cat([met.nonzero()[:, 0], new.nonzero()[:, 0]])
        self._place: torch.Tensor = torch.full((len(met),), len(self._order), device=whole.device)
        self._place[self._order] = torch.arange(len(self._order), device=whole.device)
        self._log_silent = math.log(max(1, int(self._silent.sum())))
        self._parts: list[Any] = [whole]
        if not met.all():
            whole.requires_grad_(False)
            stock = whole.detach()
            self._parts = [torch.nn.Parameter(part) for part in (stock[met], stock[new], torch.zeros_like(stock[0]))]
            for name, parameter in zip(NAMES, self._parts, strict=True):
                model.model.decoder.register_parameter(name, parameter)

    def __len__(self) -> int:
        """Columns of `logits`."""
        return len(self._order) + 1 if len(self._parts) > 1 else len(self._parts[0])

    @property
    def new_tokens(self) -> set[int]:
        """Tokens of new words."""
        return set(self._order[len(self._parts[0]) :].tolist())

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings (…, d_model) of token ids."""
        import torch

        return torch.nn.functional.embedding(self.places(tokens), self._rows())

    def places(self, tokens: torch.Tensor) -> torch.Tensor:
        """Where token ids stand among the logits."""
        self._place = self._place.to(tokens.device)
        return self._place[tokens]

    def apart(self, states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The same (N, d_model) states, without a gradient where the place to be found is a new word's.

        Of these only the rows learn, and what else the model knows stays.
        """
        import torch

        new = (places >= len(self._parts[0])) & (places < len(self._order))
        return torch.where(new[:, None], states.detach(), states)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(N, rows) logits of decoder states (N, d_model), with one more column for all rows that share one."""
        logits: torch.Tensor = states @ self._rows().T
        if len(self._parts) > 1:
            logits[:, -1] += self._log_silent
        return logits

    def write_back(self) -> None:
        """Put the trained rows where the model's own code looks for them."""
        import torch

        if len(self._parts) > 1:
            weight = self._embedding.weight
            with torch.no_grad():
                weight[self._order] = self._rows()[:-1]
                weight[self._silent] = self._parts[-1]

    def _rows(self) -> torch.Tensor:
        import torch

        return torch.cat([*self._parts[:2], self._parts[2][None]]) if len(self._parts) > 1 else self._parts[0]


def _met(model: Any) -> torch.Tensor:  # noqa: ANN401
    """(V,) bool: the tokens whose row is not empty."""
    met: torch.Tensor = model.model.decoder.embed_tokens.weight.detach().abs().sum(dim=1) > 0
    return met
