"""A second teacher for the encoder: connectionist temporal classification over letters (Graves et al., 2006).

A small decoder soon knows one speaker's few sentences by heart and stops listening. A linear head that must spell the
text from the encoder's states alone keeps the encoder's answer clear (hybrid CTC/attention, Watanabe et al., 2017).
The head is trained beside the model and left behind with the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAMES = ("ctc_weight", "ctc_bias")
HEAD_RATE_X = 3.0  # of the learning rate: the head begins from nothing
_BLANK = 0


class CtcHead:
    """Letters from encoder states. `texts` are all texts to be spelled; the parameters are registered in `encoder`."""

    def __init__(self, encoder: Any, texts: Iterable[str]) -> None:  # noqa: ANN401
        import torch

        self._labels = {letter: label for label, letter in enumerate(sorted(set("".join(texts))), start=_BLANK + 1)}
        shape = len(self._labels) + 1, encoder.config.d_model
        self.parameters: list[Any] = [torch.nn.Parameter(torch.zeros(shape)), torch.nn.Parameter(torch.zeros(shape[0]))]
        for name, parameter in zip(NAMES, self.parameters, strict=True):
            encoder.register_parameter(name, parameter)

    def labels(self, text: str) -> list[int]:
        """The labels that spell a text; 0 is the blank."""
        return [self._labels[letter] for letter in text]

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, positions, labels) in float32, of encoder states (B, positions, d_model)."""
        from torch.nn import functional

        return functional.linear(hidden, *self.parameters).float().log_softmax(-1)

    def loss(self, hidden: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        """(B,) negative log-likelihood per letter of `texts`, from encoder states (B, positions, d_model).

        0 for a text that has more letters than the states have room for.
        """
        import torch
        from torch.nn import functional

        log_probs = self.log_probs(hidden).transpose(0, 1)
        if hidden.device.type == "mps":  # torch has no such loss there
            log_probs = log_probs.cpu()
        labels = torch.tensor([label for text in texts for label in self.labels(text)], device=log_probs.device)
        lengths = torch.tensor([len(text) for text in texts], device=log_probs.device)
        positions = torch.full_like(lengths, hidden.shape[1])
        likelihoods = functional.ctc_loss(
            log_probs, labels, positions, lengths, blank=_BLANK, reduction="none", zero_infinity=True
        )
        return (likelihoods / lengths.clamp(min=1)).to(hidden.device)
