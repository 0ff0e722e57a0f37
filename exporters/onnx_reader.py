"""Check a folder of ONNX files before a native runtime sees it: everything but the weights must be as planned."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from exporters.checkpoint import TOKENIZER
from exporters.companions import check_json, check_text, check_vocabulary
from exporters.layout import Dims, check_dims
from exporters.onnx_graph import read_metadata
from exporters.onnx_models import identify, plan
from exporters.plans import check_plan
from idiolect.errors import ArtifactError
from idiolect.whisper import special_tokens

HEAD_BYTES = 1 << 14
TEXTS = ("config.json", "generation_config.json", "preprocessor_config.json", TOKENIZER, "tokenizer_config.json")
"""The files of transformers.js beside the models."""
_DAMAGED = "the file is damaged or was not copied whole; export or pull it again"


@dataclass(frozen=True)
class OnnxInfo:
    """What a folder holds. `encoder` and `decoder` are its models; `dims` tells the tier."""

    dims: Dims
    quantization: str
    encoder: Path
    decoder: Path


def check_onnx(folder: Path) -> OnnxInfo:
    """Read a folder of transformers.js or sherpa-onnx, every byte of the models.

    Raises ArtifactError: a file that is missing, cut off, too long, or differs from what is written for its dimensions
    and quantization anywhere but inside the weights; weights all zeros where only damage explains it; two models that
    do not belong together; JSON that cannot be read.
    """
    if (folder / "tokens.txt").is_file():
        info = _check_models("sherpa-", folder / "encoder.onnx", folder / "decoder.onnx")
        check_text(folder / "tokens.txt", lambda path: _check_tokens(path, info.dims))
        return info
    models = [sorted(folder.glob(f"onnx/{name}*.onnx")) for name in ("encoder_model", "decoder_model_merged")]
    if [len(found) for found in models] != [1, 1]:
        expected = "one onnx/encoder_model*.onnx and one onnx/decoder_model_merged*.onnx, or tokens.txt beside models"
        raise ArtifactError(f"{folder} is no ONNX export", f"expected {expected}")
    info = _check_models("", models[0][0], models[1][0])
    for name in TEXTS:
        check_text(folder / name, (lambda path: check_vocabulary(path, info.dims)) if name == TOKENIZER else check_json)
    return info


def check_model(path: Path) -> tuple[str, Dims, str]:
    """One model's part, dimensions and quantization. Raises ArtifactError as `check_onnx` does."""
    try:
        with path.open("rb") as file:
            part, dims, quantization = identify(read_metadata(file.read(HEAD_BYTES)))
            if reason := check_dims(dims):
                raise ValueError(f"its metadata says {reason}")
            check_plan(file, plan(part, dims, quantization))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error
    except ValueError as error:
        raise ArtifactError(f"{path.name} cannot be used: {error}", _DAMAGED) from error
    return part, dims, quantization


def _check_models(prefix: str, encoder: Path, decoder: Path) -> OnnxInfo:
    found = [check_model(path) for path in (encoder, decoder)]
    (first, dims, quantization), (second, *others) = found
    if (first, second) != (f"{prefix}encoder", f"{prefix}decoder") or others != [dims, quantization]:
        names = f"{encoder.name} and {decoder.name}"
        raise ArtifactError(f"{names} do not belong together: {found[0]}, {found[1]}", "export or pull both again")
    return OnnxInfo(dims, quantization, encoder, decoder)


def _check_tokens(path: Path, dims: Dims) -> None:
    """Raise ValueError unless it lists every text token in order, in base64."""
    eot = special_tokens(dims.n_vocab).eot
    lines = path.read_bytes().split(b"\n")
    if len(lines) != eot + 1 or lines[-1]:
        raise ValueError(f"it has {len(lines) - 1} lines, not {eot}")
    for index, line in enumerate(lines[:-1]):
        token, _, number = line.partition(b" ")
        if number != str(index).encode():
            raise ValueError(f"line {index + 1} is not token {index}")
        base64.b64decode(token, validate=True)
