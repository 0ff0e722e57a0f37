"""A checkpoint as the folder faster-whisper loads (CTranslate2); straight from safetensors, in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporters.checkpoint import Checkpoint, open_checkpoint
from exporters.ctranslate2_file import MODEL, QUANTIZATIONS, VOCABULARY, check_ctranslate2, plan
from exporters.onnx import copied, preprocessor_config
from exporters.plans import write_planned
from exporters.vocabulary import token_settings, token_texts
from idiolect.child import Reporter
from idiolect.errors import UsageError
from idiolect.whisper import special_tokens


def write(checkpoint: Path, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write the folder `out` (float32, float16 or int8) whole or not at all; the same bytes for the same checkpoint.

    Before a byte is written: UsageError (unknown quantization), CheckpointError (a model nobody can use, or without
    the tokenizer's files). Whenever it fails, what was there before stays: ExportError (disk full or not writable),
    CheckpointError (weights that are not numbers), ArtifactError, JobStopped.
    """
    if quantization not in QUANTIZATIONS:
        raise UsageError(
            f"CTranslate2 has no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}"
        )
    model = open_checkpoint(checkpoint)
    texts = {
        "config.json": _json(config(model)),
        "preprocessor_config.json": preprocessor_config(model.dims.n_mels),
        "tokenizer.json": copied(checkpoint / "tokenizer.json"),
        VOCABULARY: _json(token_texts(model.tokens, model.dims.n_vocab)),
    }
    write_planned(model, {MODEL: plan(model.dims, quantization)}, texts, check_ctranslate2, out, reporter)


def config(model: Checkpoint) -> dict[str, Any]:
    """CTranslate2's own settings; where no heads are known to follow the audio, all of the upper half of the layers."""
    dims, special = model.dims, special_tokens(model.dims.n_vocab)
    settings = token_settings(model.folder, dims.n_vocab)
    upper = range(dims.n_text_layer // 2, dims.n_text_layer)
    return {
        "alignment_heads": settings["alignment_heads"]
        or [[layer, head] for layer in upper for head in range(dims.n_text_head)],
        "lang_ids": list(range(special.sot + 1, special.sot + 1 + special.n_languages)),
        "suppress_ids": settings["suppress_tokens"],
        "suppress_ids_begin": settings["begin_suppress_tokens"],
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
