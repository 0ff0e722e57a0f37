"""CTranslate2's model.bin: what lies in it, and the check of it before the native runtime sees it.

Little-endian, no padding: version 6, the model's class and revision, every variable by name with shape, type and
bytes, sorted by name, and aliases. Strings end with a zero. Queries, keys and values lie in one matrix, keys without
a bias; at cross attention keys and values do.
Source: OpenNMT/CTranslate2 `python/ctranslate2/specs/model_spec.py`, `whisper_spec.py`, `transformer_spec.py`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from exporters.checkpoint import TOKENIZER
from exporters.companions import check_json, check_text, check_vocabulary
from exporters.layout import Dims, Tensor, check_dims, tensors
from exporters.plans import FLOAT, FLOAT16, INT8, Plan, Weight, check_plan
from idiolect.errors import ArtifactError

QUANTIZATIONS = {"float32": FLOAT, "float16": FLOAT16, "int8": INT8}
"""Quantization → type of the matrices; with int8 all else stays float32."""
MODEL = "model.bin"
TEXTS = ("config.json", "preprocessor_config.json", TOKENIZER)
VOCABULARY = "vocabulary.json"
_CODES = {FLOAT: 0, INT8: 1, FLOAT16: 4}
_HEAD = struct.pack("<I", 6) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<I", 3)
_ALIAS = ("decoder/projection/weight", "decoder/embeddings/weight")
_MAX_VARIABLES = 4096
_DAMAGED = "the file is damaged or was not copied whole; export or pull it again"


@dataclass(frozen=True)
class CTranslate2Info:
    """What a folder holds; `dims` tells the tier."""

    dims: Dims
    quantization: str


def plan(dims: Dims, quantization: str) -> Plan:
    """model.bin of a model with these dimensions, in float32, float16 or int8."""
    variables = _scalars(dims)
    for name, sources in _variables(dims).items():
        variables |= _stored(name, sources, QUANTIZATIONS[quantization])
    pieces: Plan = [_HEAD + struct.pack("<I", len(variables))]
    for name in sorted(variables):
        pieces += variables[name]
    return [*pieces, struct.pack("<I", 1) + b"".join(map(_string, _ALIAS))]


def check_ctranslate2(folder: Path) -> CTranslate2Info:
    """Read a folder of faster-whisper, every byte of the model.

    Raises ArtifactError: a file that is missing, cut off, too long, or differs from what is written for its dimensions
    and quantization anywhere but inside the weights; weights all zeros where only damage explains it; JSON that cannot
    be read, and a vocabulary of another size.
    """
    path = folder / MODEL
    try:
        with path.open("rb") as file:
            info = _identify(file)
            check_plan(file, plan(info.dims, info.quantization))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error
    except (ValueError, struct.error) as error:
        raise ArtifactError(f"{path.name} cannot be used: {error}", _DAMAGED) from error
    for name in TEXTS:
        check_text(folder / name, check_json)
    check_text(folder / TOKENIZER, lambda found: check_vocabulary(found, info.dims))
    check_text(folder / VOCABULARY, lambda found: _check_vocabulary(found, info.dims))
    return info


def _scalars(dims: Dims) -> dict[str, Plan]:
    flags = ("alibi", "alibi_use_positive_positions", "scale_alibi", "scale_embeddings", "start_from_zero_embedding")
    values = {f"decoder/{name}": (1, 0) for name in flags}
    values |= {"decoder/activation": (1, 3), "decoder/pre_norm": (1, 1)}
    values |= {"decoder/alignment_heads": (2, 1), "decoder/alignment_layer": (2, -1)}
    values |= {"decoder/num_heads": (2, dims.n_text_head), "encoder/num_heads": (2, dims.n_audio_head)}
    return {
        name: [_string(name) + struct.pack("<BBI", 0, size, size) + value.to_bytes(size, "little", signed=True)]
        for name, (size, value) in values.items()
    }


def _variables(dims: Dims) -> dict[str, list[Tensor]]:
    """Every variable that is made of weights: the tensors whose rows lie in it, one below the other."""
    found: dict[str, list[Tensor]] = {}
    for tensor in tensors(dims):
        found.setdefault(_name(tensor.source), []).append(tensor)
    return found


def _name(source: str) -> str:
    """The variable in which a checkpoint's tensor lies."""
    name = re.sub(r"\blayers\.(\d+)", r"layer_\1", source)
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    if "norm" in name:
        name = name.replace("weight", "gamma").replace("bias", "beta")
    return name.replace(".", "/")


_RENAMES = (
    (r"embed_tokens", "embeddings"),
    (r"embed_positions\.weight", "position_encodings.encodings"),
    (r"encoder_attn_layer_norm", "attention.layer_norm"),
    (r"self_attn_layer_norm", "self_attention.layer_norm"),
    (r"final_layer_norm", "ffn.layer_norm"),
    (r"fc1", "ffn.linear_0"),
    (r"fc2", "ffn.linear_1"),
    (r"self_attn\.[qkv]_proj", "self_attention.linear_0"),
    (r"self_attn\.out_proj", "self_attention.linear_1"),
    (r"encoder_attn\.q_proj", "attention.linear_0"),
    (r"encoder_attn\.[kv]_proj", "attention.linear_1"),
    (r"encoder_attn\.out_proj", "attention.linear_2"),
)


def _stored(name: str, sources: list[Tensor], matrix_type: int) -> dict[str, Plan]:
    """The variable, and its factors where it is quantised."""
    quantised = matrix_type == INT8 and sources[0].kind != "plain"
    kind = matrix_type if quantised or matrix_type == FLOAT16 else FLOAT
    pieces: Plan = []
    for tensor in sources:
        if tensor.source.endswith("v_proj.bias"):  # the keys above have none
            pieces.append(bytes(Weight("", kind, tensor.shape, "", "plain").size_bytes))
        pieces.append(Weight(name, kind, tensor.shape, tensor.source, "int8-rows" if quantised else "plain"))
    rows = sum(tensor.shape[0] for tensor in sources)
    if sources[-1].source.endswith("v_proj.bias"):
        rows += sources[-1].shape[0]
    found = {name: [_header(name, (rows, *sources[0].shape[1:]), kind), *pieces]}
    if quantised:
        scale = f"{name}_scale"
        factors = [Weight(scale, FLOAT, (tensor.shape[0], 1), tensor.source, "factor") for tensor in sources]
        found[scale] = [_header(scale, (rows,), FLOAT), *factors]
    return found


def _header(name: str, shape: tuple[int, ...], kind: int) -> bytes:
    size_bytes = Weight(name, kind, shape, "", "plain").size_bytes
    return _string(name) + struct.pack(f"<B{len(shape)}IBI", len(shape), *shape, _CODES[kind], size_bytes)


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _identify(file: IO[bytes]) -> CTranslate2Info:
    """Dimensions and quantization, from the variables' headers. Raises ValueError where they are no Whisper's."""
    if file.read(len(_HEAD)) != _HEAD:
        raise ValueError("it is no Whisper of CTranslate2's version 6")
    shapes, types, heads = {}, {}, {}
    for name, shape, code, value in _walk(file):
        shapes[name], types[name] = shape, code
        if name.endswith("num_heads") and len(value) == 2:
            heads[name.split("/")[0]] = int.from_bytes(value, "little")
    layers = {
        side: len({name.split("/")[1] for name in shapes if name.startswith(f"{side}/layer_") and name.count("/") > 2})
        for side in ("encoder", "decoder")
    }
    try:
        (n_vocab, width), (_, n_mels, _) = shapes["decoder/embeddings/weight"], shapes["encoder/conv1/weight"]
        ((audio_ctx, audio_width), (text_ctx, _)) = (
            shapes[f"{side}/position_encodings/encodings"] for side in ("encoder", "decoder")
        )
        names = {_CODES[kind]: name for name, kind in QUANTIZATIONS.items()}
        quantization = names[types["decoder/embeddings/weight"]]
        dims = Dims(
            n_vocab, audio_ctx, audio_width, heads["encoder"], layers["encoder"],
            text_ctx, width, heads["decoder"], layers["decoder"], n_mels,
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"it lacks {error}, or has it in an unknown type") from None
    if reason := check_dims(dims):
        raise ValueError(f"its variables say {reason}")
    return CTranslate2Info(dims, quantization)


def _walk(file: IO[bytes]) -> Iterator[tuple[str, tuple[int, ...], int, bytes]]:
    """Name, shape, type code and, of small ones, the bytes of every variable. Raises ValueError or struct.error."""
    at, size_bytes = file.tell(), file.seek(0, 2)
    file.seek(at)
    (count,) = struct.unpack("<I", file.read(4))
    if count > _MAX_VARIABLES:
        raise ValueError(f"it claims {count} variables")
    for _ in range(count):
        (length,) = struct.unpack("<H", file.read(2))
        name = file.read(length).rstrip(b"\0").decode("ascii")
        (rank,) = struct.unpack("<B", file.read(1))
        *shape, code, length = struct.unpack(f"<{rank}IBI", file.read(4 * rank + 5))
        if file.tell() + length > size_bytes:
            raise ValueError(f"it ends before {name} does")
        yield name, tuple(shape), code, file.read(length) if length <= 2 else b""
        if length > 2:
            file.seek(length, 1)


def _check_vocabulary(path: Path, dims: Dims) -> None:
    words = json.loads(path.read_bytes())
    if not isinstance(words, list) or len(words) != dims.n_vocab or not all(isinstance(word, str) for word in words):
        raise ValueError(f"it is no list of {dims.n_vocab} texts")
