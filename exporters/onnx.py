"""A checkpoint as the folder transformers.js loads, and ONNX files in general; straight from safetensors, in numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.checkpoint import TOKENIZER, Checkpoint, check_tokenizer, open_checkpoint
from exporters.onnx_graph import MAX_FILE_BYTES
from exporters.onnx_models import QUANTIZATIONS, plan
from exporters.onnx_reader import TEXTS, check_onnx
from exporters.plans import Plan, plan_bytes, write_planned
from exporters.weights import read_json
from idiolect.child import Reporter
from idiolect.errors import CheckpointError, UsageError
from idiolect.whisper import HOP_SAMPLES, MAX_FRAMES, MAX_S, MAX_SAMPLES, N_FFT, RATE_HZ

if TYPE_CHECKING:
    pass

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""Quantization → how transformers.js ends the files' names; it calls int8 "q8"."""


def write(checkpoint: Path, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write the folder `out` (fp32, fp16 or int8) whole or not at all; memory holds one tensor at a time.

    Before a byte is written: UsageError (unknown quantization), CheckpointError (a model nobody can use, without the
    tokenizer's files, or too large for the quantization). Whenever it fails, what was there before stays: ExportError
    (disk full or not writable), CheckpointError (weights that are not numbers), ArtifactError, JobStopped.
    """
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"ONNX has no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}")
    model = open_checkpoint(checkpoint)
    made = {"preprocessor_config.json": preprocessor_config(model.dims.n_mels)}
    texts = {name: made.get(name) or copied(checkpoint / name) for name in TEXTS}
    parts = {"encoder": "encoder_model", "decoder": "decoder_model_merged"}
    plans = {
        f"onnx/{name}{SUFFIXES[quantization]}.onnx": plan(part, model.dims, quantization)
        for part, name in parts.items()
    }
    write_folder(model, plans, texts, out, reporter)


def write_folder(
    model: Checkpoint, plans: Mapping[str, Plan], texts: Mapping[str, bytes], out: Path, reporter: Reporter
) -> None:
    """Write models and other files, by path in the folder, and check what was written. Raises what `write` does."""
    for name, planned in plans.items():
        if plan_bytes(planned) > MAX_FILE_BYTES:
            size = f"{name} would be {plan_bytes(planned) / 1e9:.1f} GB, and an ONNX file holds 2.1"
            raise CheckpointError(f"{model.folder}: {size}", "choose a smaller --quant")
    write_planned(model, plans, texts, check_onnx, out, reporter)


def preprocessor_config(n_mels: int) -> bytes:
    """Whisper's feature extractor; newer tools do not save the file, and transformers.js cannot do without it."""
    values = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": n_mels,
        "sampling_rate": RATE_HZ,
        "hop_length": HOP_SAMPLES,
        "n_fft": N_FFT,
        "chunk_length": int(MAX_S),
        "n_samples": MAX_SAMPLES,
        "nb_max_frames": MAX_FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
    return json.dumps(values, indent=1).encode() + b"\n"


def copied(path: Path) -> bytes:
    """A file that is copied as it is: JSON, and a tokenizer.json that fits the model, or a CheckpointError."""
    if path.name == TOKENIZER:
        check_tokenizer(path.parent)
    else:
        read_json(path, "copy it from the base model's folder")
    return path.read_bytes()
