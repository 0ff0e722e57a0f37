"""How much memory a training step takes, before it is taken; and what to do where that is more than there is.

At the peak there are the weights, AdamW's two averages, on a CPU the weights' mean too (training.averaging), the
gradients (the embedding's twice: from the input and from the logits), what every layer keeps of each position and token
for the way back, and the logits. The bytes below are those of the tensors that autograd keeps in transformers' Whisper
layers with scaled-dot-product attention, and a sixth for what allocators waste, as benchmarks/memory.py measures.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from idiolect.errors import JobError

MIN_POSITIONS = 1_500  # one 30 s window is never cut
RESERVE = 0.1  # of what is free stays free
_FLOAT, _HALF = 4, 2
_MOMENTS = 2 * _FLOAT
# bytes per position and d_model that a layer keeps, in float32 and under autocast
_ENCODER = {False: 84.0, True: 48.0}
_DECODER = {False: 96.0, True: 62.0}
_CROSS = {False: 8.0, True: 8.0}  # keys and values of a decoder layer, per encoder position
_STEM = {False: 24.0, True: 16.0}  # the two convolutions, whose first works on two frames a position
_RECOMPUTED = 4.0  # per layer and position: its input alone
_LOGITS = 3 * _FLOAT  # logits, their softmax, and its gradient
_SHORTAGES = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_RUNTIME_BYTES = {"cpu": 130_000_000, "cuda": 500_000_000}  # kernels, workspaces, a CUDA context


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory. `logits` are the columns of its output in training."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    logits: int
    parameters: int
    trained: int
    device: str = "cpu"

    @classmethod
    def of(cls, model: Any, logits: int, trained: Iterable[Any]) -> Shape:  # noqa: ANN401
        """Of a transformers Whisper, with the parameters that are trained."""
        return cls(
            d_model=model.config.d_model,
            encoder_layers=model.config.encoder_layers,
            decoder_layers=model.config.decoder_layers,
            logits=logits,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            trained=sum(parameter.numel() for parameter in trained),
            device=model.device.type,
        )


@dataclass(frozen=True)
class Need:
    """One step: so many `positions` of the encoder and `tokens` of the decoder at once, padding included."""

    shape: Shape
    positions: int
    tokens: int
    half: bool = False
    recompute: bool = False


def estimate_peak_bytes(need: Need) -> int:
    """Bytes that training adds to a process which has loaded its libraries, at the peak."""
    shape = need.shape
    encoder, decoder, cross = _ENCODER[need.half], _DECODER[need.half], _CROSS[need.half]
    if need.recompute:  # one layer at a time is whole
        encoder += _RECOMPUTED * (shape.encoder_layers - 1)
        decoder += _RECOMPUTED * (shape.decoder_layers - 1)
    else:
        encoder, decoder = encoder * shape.encoder_layers, decoder * shape.decoder_layers
        cross *= shape.decoder_layers
    activations = shape.d_model * (need.positions * (encoder + cross + _STEM[need.half]) + need.tokens * decoder)
    logits = need.tokens * shape.logits * _LOGITS
    kept = _MOMENTS + (_FLOAT if shape.device == "cpu" else 0)
    weights = shape.parameters * (_FLOAT + (_HALF if need.half else 0)) + shape.trained * kept
    gradients = shape.trained * _FLOAT + min(shape.trained, shape.logits * shape.d_model) * _FLOAT
    return round(weights + gradients + activations + logits + _RUNTIME_BYTES.get(shape.device, 0))


def fit(need: Need, memory_bytes: int) -> Need:
    """`need` with half as much at once, again and again, then with activations computed twice, until it fits."""
    while estimate_peak_bytes(need) > memory_bytes and need.positions >= 2 * MIN_POSITIONS:
        need = replace(need, positions=need.positions // 2, tokens=(need.tokens + 1) // 2)
    return replace(need, recompute=need.recompute or estimate_peak_bytes(need) > memory_bytes)


def at_hand_bytes(device: Any) -> int:  # noqa: ANN401
    """Memory a training may take on a torch device, its loaded model included, a reserve kept; processes on one CPU
    share it."""
    if device.type == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return round(free * (1 - RESERVE)) + int(torch.cuda.memory_reserved(device))
    import psutil

    # float32 weights are mapped from their file, and so counted as available, until the first step changes them
    free = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return round(free * (1 - RESERVE))


@contextlib.contextmanager
def shortages_told() -> Iterator[None]:
    """JobError where memory ends."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        hint = "close other programs, choose a smaller tier, or train adapters alone (--lora; in config.toml: lora)"
        raise JobError("out of memory", hint) from error


def is_shortage(error: BaseException) -> bool:
    """True for the errors by which torch and Python say that memory ran out."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error).lower() for sign in _SHORTAGES)
