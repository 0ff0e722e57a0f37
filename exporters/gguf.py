"""A checkpoint as the GGUF file that transcribe.cpp (the engine of the app Handy) reads; straight from safetensors.

No other runtime reads it: whisper.cpp and FUTO Keyboard want `exporters.ggml`. Blocks of weights are equal in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.ggml import check_known, check_room, fitting, stored_data
from exporters.gguf_file import ALIGNMENT, Stored, check_gguf_stream, header, layout, padding
from exporters.layout import F32, MEL_BINS, Quantization
from exporters.vocabulary import merges, token_settings, token_texts
from idiolect.child import Reporter
from idiolect.errors import ExportError
from idiolect.files import replacing
from idiolect.whisper import (
    HOP_SAMPLES,
    LANGUAGES,
    MAX_FRAMES,
    MAX_S,
    MAX_SAMPLES,
    N_FFT,
    RATE_HZ,
    mel_filterbank,
    special_tokens,
)


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
    dims, special = model.dims, special_tokens(model.dims.n_vocab)
    sides = {
        "encoder": (dims.n_audio_layer, dims.n_audio_head),
        "decoder": (dims.n_text_layer, dims.n_text_head),
    }
    values: dict[str, Any] = {
        "general.architecture": "whisper",
        "general.name": model.folder.name,
        "general.alignment": ALIGNMENT,
        "general.file_type": stored_as.ftype,
        "general.quantization_version": 2,
        "general.languages": list(LANGUAGES[: special.n_languages]) if special.multilingual else ["en"],
        "stt.variant": "whisper",
        "stt.capability.lang_detect": special.multilingual,
        "stt.capability.translate": special.multilingual,
        "stt.capability.timestamps": True,
        "stt.whisper.encoder.num_mel_bins": dims.n_mels,
        "stt.whisper.encoder.max_source_positions": dims.n_audio_ctx,
        "stt.whisper.decoder.max_target_positions": dims.n_text_ctx,
        "stt.whisper.decoder.vocab_size": dims.n_vocab,
        "stt.whisper.decoder.tie_word_embeddings": True,
        "stt.whisper.decoder.scale_embedding": False,
    }
    for side, (layers, heads) in sides.items():
        width = dims.n_audio_state
        numbers = {"n_layers": layers, "d_model": width, "n_heads": heads, "ffn_dim": 4 * width, "activation": "gelu"}
        values |= {f"stt.whisper.{side}.{key}": value for key, value in numbers.items()}
    return values | _tokens(model) | _frontend(dims.n_mels)


def _tokens(model: Checkpoint) -> dict[str, Any]:
    special, n_vocab = special_tokens(model.dims.n_vocab), model.dims.n_vocab
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt2",
        "tokenizer.ggml.tokens": token_texts(model.tokens, n_vocab),
        "tokenizer.ggml.token_type": [1] * special.eot + [3] * (n_vocab - special.eot),
        "tokenizer.ggml.merges": merges(model.folder),
        "tokenizer.ggml.bos_token_id": special.eot,
        "tokenizer.ggml.eos_token_id": special.eot,
        "tokenizer.ggml.padding_token_id": special.eot,
        "tokenizer.ggml.add_bos_token": False,
    }
    ids = {
        "decoder_start": special.sot,
        "no_timestamps": special.no_timestamps,
        "sot": special.sot,
        "transcribe": special.transcribe,
        "translate": special.translate,
        "prev_sot": special.no_timestamps - 2,
    }
    values |= {f"stt.whisper.{name}_token_id": token for name, token in ids.items()}
    settings = token_settings(model.folder, n_vocab)
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        if settings[key]:
            values[f"stt.whisper.{key}"] = settings[key]
    return values


def _frontend(n_mels: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "type": "mel",
        "num_mels": n_mels,
        "sample_rate": RATE_HZ,
        "n_fft": N_FFT,
        "win_length": N_FFT,
        "hop_length": HOP_SAMPLES,
        "window": "hann_periodic",
        "normalize": "whisper_logmel",
        "dither": 0.0,
        "pre_emphasis": 0.0,
        "f_min": 0.0,
        "f_max": RATE_HZ / 2,
        "pad_mode": "reflect",
        "center": True,
        "mel_norm": "slaney",
        "chunk_length": int(MAX_S),
        "n_samples": MAX_SAMPLES,
        "nb_max_frames": MAX_FRAMES,
    }
    return {f"stt.frontend.{key}": value for key, value in values.items()}


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
