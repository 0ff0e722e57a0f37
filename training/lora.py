"""Low-rank adapters (Hu et al., 2021) by peft, for models whose full training does not fit the memory.

They are added to every projection of attention and of the feed-forward layers, and merged before a model is saved.
"""

from __future__ import annotations

from typing import Any

from idiolect.errors import require
from training import ctc, rows

RANK = 32
# Of the learning rate: adapters begin as nothing and are few. nano's loss after the same 20 steps at 3e-4: 2.2 with
# all weights; with adapters 3.8 (×1), 2.4 (×3), 1.2 (×10), 0.9 (×30), and at ×100 it jumps up before it falls.
RATE_X = 10.0
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
_MARK = ".lora_"


def add_adapters(model: Any, rank: int, seed: int) -> None:  # noqa: ANN401
    """Put adapters into `model`; nothing else but new words' rows and the letters' head stays trainable.

    Raises MissingExtra without peft.
    """
    require("peft", "lora")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or name.endswith((*rows.NEW, *ctc.NAMES)))


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's parameter."""
    return _MARK in name


def merge(model: Any) -> None:  # noqa: ANN401
    """Add the adapters' products to the weights they stand beside, and take the adapters out."""
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "lora_A") and hasattr(layer, "merge"):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
