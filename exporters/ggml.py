"""A checkpoint as whisper.cpp's model file, the one FUTO Keyboard reads too; straight from safetensors, in numpy.

The header's special-token ids are not written anywhere: every reader computes them from the vocabulary size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.layout import F16, F32, MAGIC, MEL_BINS, QUANTIZATIONS, Quantization, Tensor, check_fits, tensors
from exporters.readers import check_ggml_stream
from idiolect.child import Reporter
from idiolect.errors import CheckpointError, ExportError, UsageError
from idiolect.files import free_bytes, replacing
from idiolect.whisper import mel_filterbank

if TYPE_CHECKING:
    from exporters.weights import StoredTensor

_F32_ABORTS = "whisper.cpp 1.8.5 and older load a file of f32 and end at the first clip (whisper.cpp#2557): prefer f16"


def write(checkpoint: Path, quantization: str, outfile: Path, reporter: Reporter) -> None:
    """Write `outfile` (f32, f16, q4_0, q4_1, q5_0, q5_1 or q8_0) whole or not at all; about 45 MB of memory, any model.

    Before a byte is written: UsageError (unknown quantization), CheckpointError (a model nobody can use, or one that
    does not fit the quantization). Whenever it fails, what was there before stays: ExportError (disk full or not
    writable), CheckpointError (weights that are not numbers), ArtifactError (the reader refuses the file), JobStopped.
    """
    check_known(quantization, "ggml")
    model = open_checkpoint(checkpoint)
    stored_as = fitting(model, quantization)
    if stored_as is F32:
        reporter.warning(_F32_ABORTS)
    head = _header(model, stored_as)
    size_bytes = len(head) + _tensor_bytes(model, stored_as)
    try:
        check_room(outfile, size_bytes)
        with replacing(outfile) as file:
            file.write(head)
            _write_tensors(file, model, stored_as, size_bytes, reporter)
            check_ggml_stream(file, outfile.name)
    except OSError as error:
        raise ExportError(f"could not write {outfile}: {error.strerror}", "nothing was left behind") from error


def check_known(quantization: str, container: str) -> None:
    """Raise UsageError for a quantization that ggml does not have."""
    if quantization not in QUANTIZATIONS:
        raise UsageError(
            f"{container} has no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}"
        )


def fitting(model: Checkpoint, quantization: str) -> Quantization:
    """How matrices are stored. Raises CheckpointError for a model that does not fit."""
    stored_as = QUANTIZATIONS[quantization]
    if reason := check_fits(model.dims, stored_as):
        raise CheckpointError(f"{model.folder}: {reason}", "choose f16")
    return stored_as


def check_room(outfile: Path, size_bytes: int) -> None:
    """Make the file's folder. Raises ExportError where the disk is too full, OSError where it cannot be made."""
    outfile.parent.mkdir(parents=True, exist_ok=True)
    if size_bytes > (free := free_bytes(outfile.parent)):
        raise ExportError(
            f"{outfile} needs {size_bytes / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free", "free some space"
        )


def _tensor_bytes(model: Checkpoint, stored_as: Quantization) -> int:
    return sum(
        len(_tensor_header(tensor, stored_as)) + tensor.stored_as(stored_as).size_bytes(tensor.elements)
        for tensor in tensors(model.dims)
    )


def _header(model: Checkpoint, stored_as: Quantization) -> bytes:
    dims = model.dims
    filters = [weight for row in mel_filterbank(dims.n_mels, published=True) for weight in row]
    return b"".join(
        [
            MAGIC,
            struct.pack("<11i", *vars(dims).values(), stored_as.header_ftype),
            struct.pack(f"<2i{len(filters)}f", dims.n_mels, MEL_BINS, *filters),
            struct.pack("<i", len(model.tokens)),
            *(struct.pack("<i", len(token)) + token for token in model.tokens),
        ]
    )


def _tensor_header(tensor: Tensor, stored_as: Quantization) -> bytes:
    name, dims = tensor.name.encode(), tensor.file_dims
    type_code = tensor.stored_as(stored_as).type_code
    return struct.pack(f"<{3 + len(dims)}i", len(dims), len(name), type_code, *dims) + name


def _write_tensors(
    file: IO[bytes], model: Checkpoint, stored_as: Quantization, size_bytes: int, reporter: Reporter
) -> None:
    for tensor in tensors(model.dims):
        reporter.check_stop()
        file.write(_tensor_header(tensor, stored_as))
        for data in stored_data(model.tensors[tensor.source], tensor.stored_as(stored_as)):
            file.write(data)
        reporter.progress(file.tell(), size_bytes, "bytes")


def stored_data(weights: StoredTensor, stored_as: Quantization) -> Iterator[memoryview]:
    """A tensor's bytes in pieces. Raises CheckpointError for weights that are not numbers."""
    from exporters.blocks import quantize

    for values in weights.chunks():
        if stored_as is F32:
            yield values.data
        elif stored_as is F16:
            yield values.astype("<f2").data
        else:
            yield quantize(values, stored_as.name).data
