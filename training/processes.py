"""What several training processes must agree on (`torchrun`, `accelerate launch`); with one process all of it is free.

Each process computes a share of every batch. Gradients are summed here, not by DistributedDataParallel: shares may
differ in size, be empty, or be cut into parts where memory is short, and the sum is the one process's all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

BUCKET_ELEMENTS = 16 << 20  # gradients that travel together: 64 MB


def is_main() -> bool:
    """True in the process that speaks and writes, before any of them has met the others."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """The processes of one training, through accelerate's `accelerator`."""

    def __init__(self, accelerator: Any) -> None:  # noqa: ANN401
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self.main: bool = accelerator.is_main_process

    @property
    def share(self) -> slice:
        """Of a batch's clips: every `count`-th."""
        return slice(self.rank, None, self.count)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.count == 1:
            return list(values)
        import torch

        kind = torch.float32 if self._accelerator.device.type == "mps" else torch.float64
        mine = torch.tensor(values, dtype=kind, device=self._accelerator.device)
        return [float(value) for value in self._accelerator.reduce(mine, "sum")]

    def sum_gradients(self, parameters: Iterable[Any]) -> None:
        """Give every process the sum of all processes' gradients; one that had none counts as zeros."""
        if self.count == 1:
            return
        import torch
        from torch.distributed import all_reduce

        bucket: list[Any] = []
        for parameter in (*parameters, None):
            if parameter is None or sum(each.numel() for each in bucket) >= BUCKET_ELEMENTS:
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                all_reduce(flat)
                sizes = [gradient.numel() for gradient in bucket]
                for gradient, summed in zip(bucket, torch.split(flat, sizes), strict=True):
                    gradient.copy_(summed.view_as(gradient))
                bucket = []
            if parameter is not None:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                bucket.append(parameter.grad)

    def from_main(self, value: Any) -> Any:  # noqa: ANN401
        """The main process's value, everywhere."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()
