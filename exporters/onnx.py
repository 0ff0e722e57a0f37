"""A checkpoint as the folder transformers.js loads, and ONNX files in general; straight from safetensors, in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.onnx_graph import FLOAT, FLOAT16, INT8, MAX_FILE_BYTES, Plan, Weight, plan_bytes
from exporters.onnx_models import QUANTIZATIONS, plan
from exporters.onnx_reader import TEXTS, check_onnx
from exporters.weights import CHUNK_ELEMENTS, read_json
from idiolect.child import Reporter
from idiolect.errors import CheckpointError, ExportError, UsageError
from idiolect.files import free_bytes, replacing_folder
from idiolect.whisper import HOP_SAMPLES, MAX_FRAMES, MAX_S, MAX_SAMPLES, N_FFT, RATE_HZ

if TYPE_CHECKING:
    import numpy.typing as npt

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
    texts = {name: made.get(name) or _text(checkpoint / name) for name in TEXTS}
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
            raise CheckpointError(f"{model.folder}: {size}", "choose fp16 or int8")
    size_bytes = sum(map(plan_bytes, plans.values()))
    try:
        needed = size_bytes + sum(map(len, texts.values()))
        if needed > (free := free_bytes(out.parent)):
            raise ExportError(
                f"{out} needs {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free", "free some space"
            )
        with replacing_folder(out) as folder:
            done = 0
            for name, planned in plans.items():
                (folder / name).parent.mkdir(exist_ok=True)
                with (folder / name).open("wb") as file:
                    for data in _stream(model, planned):
                        reporter.check_stop()
                        file.write(data)
                        done += len(data)
                        reporter.progress(done, size_bytes, "bytes")
            for name, text in texts.items():
                (folder / name).write_bytes(text)
            check_onnx(folder)
    except OSError as error:
        raise ExportError(f"could not write {out}: {error.strerror}", "nothing was left behind") from error


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


def _stream(model: Checkpoint, planned: Plan) -> Iterator[bytes | memoryview]:
    for piece in planned:
        yield piece if isinstance(piece, bytes) else weight_data(model, piece).data.cast("B")


def weight_data(model: Checkpoint, weight: Weight) -> npt.NDArray[Any]:
    """A weight as it stands in the file, made row by row. Raises CheckpointError for what float16 could not hold."""
    import numpy as np

    stored = model.tensors[weight.source]
    out = np.empty(weight.shape, {FLOAT: "<f4", FLOAT16: "<f2", INT8: "i1"}[weight.data_type])
    rows = (out if weight.form in ("plain", "scale") else out.T).reshape(stored.shape[0], -1)
    columns = math.prod(stored.shape[1:])
    block = max(1, CHUNK_ELEMENTS // columns)
    for index, values in enumerate(stored.exact_chunks(block * columns)):
        found = values.reshape(-1, columns)
        if weight.form in ("int8", "scale"):
            scales = np.abs(found).max(1, keepdims=True) / np.float32(127)
            scales[scales == 0] = 1  # a row of zeros: a token that was never met
            found = scales if weight.form == "scale" else np.rint(found / scales)
        rows[index * block : (index + 1) * block] = found
    return out


def _text(path: Path) -> bytes:
    """A file that is copied as it is: JSON, or a CheckpointError."""
    read_json(path, "copy it from the base model's folder; newer tools save tokenizer.json")
    return path.read_bytes()
