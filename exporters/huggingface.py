"""A checkpoint as a plain Hugging Face folder with its model card: one safetensors file, in float16 or float32.

Any program that knows transformers loads it; so do the converters of runtimes that idiolect does not write for.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.checkpoint import TOKENIZER, open_checkpoint, read_dims
from exporters.companions import check_text, check_vocabulary
from exporters.layout import Dims, tensors
from exporters.onnx import copied, preprocessor_config
from exporters.plans import FLOAT, FLOAT16, Plan, Weight, check_plan, plan_bytes, write_planned
from exporters.weights import read_json
from idiolect.child import Reporter
from idiolect.errors import ArtifactError, CheckpointError, UsageError

MODEL = "model.safetensors"
QUANTIZATIONS = {"float32": (FLOAT, "F32"), "float16": (FLOAT16, "F16")}
NEEDED = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "normalizer.json")
TEXTS = ("merges.txt", "README.md")
_DAMAGED = "the folder is damaged or was not copied whole; export or pull it again"


@dataclass(frozen=True)
class HuggingFaceInfo:
    """What a folder holds; `dims` tells the tier."""

    dims: Dims
    quantization: str


def write(checkpoint: Path, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write the folder `out` (float16 or float32) whole or not at all; the same bytes for the same checkpoint.

    Before a byte is written: UsageError (unknown quantization), CheckpointError (a model nobody can use, or without
    the tokenizer's files). Whenever it fails, what was there before stays: ExportError (disk full or not writable),
    CheckpointError (weights that float16 does not hold), ArtifactError, JobStopped.
    """
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"there is no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}")
    model = open_checkpoint(checkpoint)
    dtypes = dict.fromkeys(("dtype", "torch_dtype"), quantization)  # the first is read by newer tools
    config = {**read_json(checkpoint / "config.json", ""), **dtypes, "tie_word_embeddings": True}
    texts = {
        "config.json": json.dumps(config, indent=1).encode() + b"\n",
        "preprocessor_config.json": preprocessor_config(model.dims.n_mels),
        **{name: copied(checkpoint / name) for name in NEEDED},
        **{name: copied(checkpoint / name) for name in OPTIONAL if (checkpoint / name).is_file()},
        **{name: (checkpoint / name).read_bytes() for name in TEXTS if (checkpoint / name).is_file()},
    }
    write_planned(model, {MODEL: plan(model.dims, quantization)}, texts, check_huggingface, out, reporter)


def plan(dims: Dims, quantization: str) -> Plan:
    """The safetensors file of a model with these dimensions."""
    data_type, dtype = QUANTIZATIONS[quantization]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    weights, end = [], 0
    for tensor in tensors(dims):
        weight = Weight(f"model.{tensor.source}", data_type, tensor.shape, tensor.source, "plain")
        start, end = end, end + weight.size_bytes
        header[weight.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        weights.append(weight)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *weights]


def check_huggingface(folder: Path) -> HuggingFaceInfo:
    """Read a folder that `write` made, every byte of the weights.

    Raises ArtifactError: no Whisper, a file that is missing, cut off, too long, or whose header differs from what is
    written for its dimensions; weights all zeros where only damage explains it.
    """
    path = folder / MODEL
    try:
        dims = read_dims(folder)
        for name in NEEDED:
            read_json(folder / name, "")
        check_text(folder / TOKENIZER, lambda found: check_vocabulary(found, dims))
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            found = next((each for each in QUANTIZATIONS if plan_bytes(plan(dims, each)) == size_bytes), "float16")
            check_plan(file, plan(dims, found))
    except CheckpointError as error:
        raise ArtifactError(f"{folder.name} cannot be used: {error.message}", _DAMAGED) from error
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error
    except ValueError as error:
        raise ArtifactError(f"{path.name} cannot be used: {error}", _DAMAGED) from error
    return HuggingFaceInfo(dims, found)
