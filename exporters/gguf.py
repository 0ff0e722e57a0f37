"""A checkpoint as the GGUF file that transcribe.cpp (the engine of the app Handy) reads; straight from safetensors.

No other runtime reads it: whisper.cpp and FUTO Keyboard want `exporters.ggml`. Blocks of weights are equal in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.ggml import check_known, check_room, fitting, stored_data
from exporters.gguf_file import Stored, check_gguf_stream, header, layout, padding, settled
from exporters.layout import F32, MEL_BINS, Quantization
from exporters.vocabulary import merges, token_settings, token_texts
from idiolect.child import Reporter
from idiolect.errors import ExportError
from idiolect.files import replacing
from idiolect.whisper import LANGUAGES, N_FFT, mel_filterbank, special_tokens


def write(checkpoint: Path, quantization: str, outfile: Path, reporter: Reporter) -> None:
    """Write `outfile` whole or not at all, in the quantizations of ggml. Raises what `exporters.ggml.write` does."""
    check_known(quantization, "GGUF")
    model = open_checkpoint(checkpoint)
    stored_as = fitting(model, quantization)
    stored = layout(model.dims, stored_as)
    head = header(metadata(model, stored_as), stored)
    size_bytes = len(head) + sum(tensor.size_bytes + padding(tensor.size_bytes) for tensor in stored)
    try:
        check_room(outfile, size_bytes)
        with replacing(outfile) as file:
            file.write(head)
            for tensor in stored:
                reporter.check_stop()
                _write_tensor(file, model, tensor)
                reporter.progress(file.tell(), size_bytes, "bytes")
            check_gguf_stream(file, outfile.name)
    except OSError as error:
        raise ExportError(f"could not write {outfile}: {error.strerror}", "nothing was left behind") from error


def metadata(model: Checkpoint, stored_as: Quantization) -> dict[str, Any]:
    """Every key of the file. Source: handy-computer/transcribe.cpp `scripts/convert-whisper.py`."""
    special, n_vocab = special_tokens(model.dims.n_vocab), model.dims.n_vocab
    values: dict[str, Any] = {
        "general.architecture": "whisper",
        "general.name": "Whisper",  # not the folder's: the same model gives the same bytes
        "general.file_type": stored_as.ftype,
        "general.languages": list(LANGUAGES[: special.n_languages]) if special.multilingual else ["en"],
        "stt.variant": "whisper",
        **settled(model.dims),
        "tokenizer.ggml.tokens": token_texts(model.tokens, n_vocab),
        "tokenizer.ggml.token_type": [1] * special.eot + [3] * (n_vocab - special.eot),
        "tokenizer.ggml.merges": merges(model.folder),
    }
    settings = token_settings(model.folder, n_vocab)
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        ids = [token for token in settings[key] or [] if token >= 0]  # -1 stands for no further ones
        if ids:
            values[f"stt.whisper.{key}"] = ids
    return values


def _write_tensor(file: IO[bytes], model: Checkpoint, tensor: Stored) -> None:
    if tensor.source:
        for data in stored_data(model.tensors[tensor.source], tensor.stored_as):
            file.write(data)
    else:
        file.write(_made(tensor, model.dims.n_mels))
    file.write(bytes(padding(tensor.size_bytes)))


def _made(tensor: Stored, n_mels: int) -> bytes:
    """The mel filters, or the window of the Fourier transform."""
    import numpy as np

    assert tensor.stored_as is F32
    if tensor.shape == (n_mels, MEL_BINS):
        return np.array(mel_filterbank(n_mels), "<f4").tobytes()
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype("<f4").tobytes()
