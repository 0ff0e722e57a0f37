"""The mean of a run's weights over its last steps (Izmailov et al., 2018: stochastic weight averaging).

A step of a few clips moves the weights to and fro; the mean lies between. In five trainings of nano on the synthetic
voice (three splits, two seeds) 5.1, 8.3, 5.7, 9.2 and 5.6 % word errors on clips it never saw became 3.3, 7.6, 5.9, 7.1
and 4.3 %; with the last 15 % of the steps in place of 30, 4.3, 7.6, 5.9, 6.1 and 5.9 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHARE = 0.3  # of the steps, the last
MAX_SAMPLES = 50  # a large model's weights take long to read from a GPU


class Average:
    """Of the parameters that are trained, in float32 in main memory, whatever device trains them."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], total_steps: int) -> None:
        self._parameters = parameters
        self._first = total_steps - max(1, round(SHARE * total_steps))
        self._every = max(1, (total_steps - self._first) // MAX_SAMPLES)
        self.count = 0
        self.means: list[torch.Tensor] = []

    def restore(self, count: int, means: list[torch.Tensor]) -> None:
        """Take over what an earlier run had taken in."""
        self.count, self.means = count, means

    def take(self, step: int) -> None:
        """Take the present weights in, after so many steps, where it is time to."""
        if step <= self._first or (step - self._first) % self._every:
            return
        import torch

        self.count += 1
        with torch.no_grad():
            if not self.means:
                self.means = [torch.zeros(part.shape) for part in self._parameters]
            for mean, part in zip(self.means, self._parameters, strict=True):
                mean.lerp_(part.detach().to(mean), 1 / self.count)

    def put(self) -> None:
        """Make the mean the present weights."""
        import torch

        with torch.no_grad():
            for part, mean in zip(self._parameters, self.means, strict=False):
                part.copy_(mean)
