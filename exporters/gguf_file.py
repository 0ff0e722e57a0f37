"""GGUF with a Whisper in it, as transcribe.cpp reads it: header, layout of the tensors, and the check of a file.

Little-endian: "GGUF", version 3, number of tensors and of keys, the keys, every tensor's name, dimensions (reversed),
type and offset, then the data, each tensor at a multiple of 32 bytes.
Source: ggml-org/ggml `docs/gguf.md`; handy-computer/transcribe.cpp `src/arch/whisper/weights.cpp`.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from exporters.layout import F32, MEL_BINS, QUANTIZATIONS, Dims, Quantization, check_dims, check_fits, tensors
from exporters.readers import is_zero
from idiolect.errors import ArtifactError
from idiolect.whisper import HOP_SAMPLES, MAX_FRAMES, MAX_S, MAX_SAMPLES, N_FFT, RATE_HZ, special_tokens

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_KEYS, MAX_ITEMS, MAX_TEXT_BYTES = 1024, 1 << 20, 1 << 16
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_CODES = {_U32: "I", _I32: "i", _F32: "f", _BOOL: "?"}
_DAMAGED = "the file is damaged or was not copied whole; export or pull it again"


@dataclass(frozen=True)
class Stored:
    """One tensor of the file; `source` is its name in the checkpoint, empty for what follows from the dimensions."""

    name: str
    shape: tuple[int, ...]
    stored_as: Quantization
    source: str

    @property
    def size_bytes(self) -> int:
        return self.stored_as.size_bytes(math.prod(self.shape))


@dataclass(frozen=True)
class GgufInfo:
    """What a file holds; `dims` tells the tier."""

    dims: Dims
    quantization: str
    metadata: Mapping[str, Any]
    size_bytes: int


def layout(dims: Dims, stored_as: Quantization) -> list[Stored]:
    """Every tensor of the file, in the order of the data. No other may be in it."""
    found = [
        Stored("frontend.mel_filterbank", (dims.n_mels, MEL_BINS), F32, ""),
        Stored("frontend.window", (N_FFT,), F32, ""),
    ]
    for tensor in tensors(dims):
        found.append(Stored(_name(tensor.source), tensor.shape, tensor.stored_as(stored_as), tensor.source))
    return found


_RENAMES = (
    (r"^encoder\.", "enc."),
    (r"^decoder\.", "dec."),
    (r"\blayers\.", "blocks."),
    (r"conv1", "conv.0"),
    (r"conv2", "conv.1"),
    (r"embed_positions", "pos_emb"),
    (r"embed_tokens", "token_embd"),
    (r"^(enc|dec)\.layer_norm", r"\1.final_norm"),
    (r"encoder_attn_layer_norm", "norm_cross"),
    (r"encoder_attn", "cross_attn"),
    (r"final_layer_norm", "norm_ffn"),
    (r"\bfc", "ffn.fc"),
    (r"^(enc\..*)self_attn_layer_norm", r"\1norm_attn"),
    (r"self_attn_layer_norm", "norm_self"),
    (r"^(enc\..*)self_attn", r"\1attn"),
    (r"([qkv])_proj", r"\1"),
    (r"out_proj", "out"),
)


def _name(source: str) -> str:
    for pattern, replacement in _RENAMES:
        source = re.sub(pattern, replacement, source)
    return source


def settled(dims: Dims) -> dict[str, Any]:
    """The keys whose values follow from the dimensions."""
    special = special_tokens(dims.n_vocab)
    values: dict[str, Any] = {
        "general.alignment": ALIGNMENT,
        "general.quantization_version": 2,
        "stt.capability.lang_detect": special.multilingual,
        "stt.capability.translate": special.multilingual,
        "stt.capability.timestamps": True,
        "stt.whisper.encoder.num_mel_bins": dims.n_mels,
        "stt.whisper.encoder.max_source_positions": dims.n_audio_ctx,
        "stt.whisper.decoder.max_target_positions": dims.n_text_ctx,
        "stt.whisper.decoder.vocab_size": dims.n_vocab,
        "stt.whisper.decoder.tie_word_embeddings": True,
        "stt.whisper.decoder.scale_embedding": False,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt2",
        "tokenizer.ggml.bos_token_id": special.eot,
        "tokenizer.ggml.eos_token_id": special.eot,
        "tokenizer.ggml.padding_token_id": special.eot,
        "tokenizer.ggml.add_bos_token": False,
    }
    sides = {"encoder": (dims.n_audio_layer, dims.n_audio_head), "decoder": (dims.n_text_layer, dims.n_text_head)}
    for side, (layers, heads) in sides.items():
        width = dims.n_audio_state
        numbers = {"n_layers": layers, "d_model": width, "n_heads": heads, "ffn_dim": 4 * width, "activation": "gelu"}
        values |= {f"stt.whisper.{side}.{key}": value for key, value in numbers.items()}
    ids = {
        "decoder_start": special.sot,
        "no_timestamps": special.no_timestamps,
        "sot": special.sot,
        "transcribe": special.transcribe,
        "translate": special.translate,
        "prev_sot": special.no_timestamps - 2,
    }
    values |= {f"stt.whisper.{name}_token_id": token for name, token in ids.items()}
    return values | {f"stt.frontend.{key}": value for key, value in _frontend(dims.n_mels).items()}


def _frontend(n_mels: int) -> dict[str, Any]:
    return {
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


def padding(size_bytes: int) -> int:
    """Zeros behind so many bytes, up to the alignment."""
    return -size_bytes % ALIGNMENT


def header(metadata: Mapping[str, Any], stored: Sequence[Stored]) -> bytes:
    """All that stands before the data."""
    parts = [MAGIC + struct.pack("<IQQ", VERSION, len(stored), len(metadata))]
    parts += [_text(key) + _typed(value) for key, value in metadata.items()]
    offset = 0
    for tensor in stored:
        rank = len(tensor.shape)
        numbers = (rank, *reversed(tensor.shape), tensor.stored_as.type_code, offset)
        parts.append(_text(tensor.name) + struct.pack(f"<I{rank}QIQ", *numbers))
        offset += tensor.size_bytes + padding(tensor.size_bytes)
    head = b"".join(parts)
    return head + bytes(padding(len(head)))


def _typed(value: Any) -> bytes:  # noqa: ANN401
    if isinstance(value, list):
        kind = _STRING if value and isinstance(value[0], str) else _I32
        items = b"".join(map(_text, value)) if kind == _STRING else struct.pack(f"<{len(value)}i", *value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + items
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    kind, code = {bool: (_BOOL, "?"), int: (_U32, "I"), float: (_F32, "f")}[type(value)]
    return struct.pack(f"<I{code}", kind, value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def check_gguf(path: Path) -> GgufInfo:
    """Read a file's header and where its tensors lie.

    Raises ArtifactError: another kind of file, a model transcribe.cpp does not know, impossible dimensions, a tensor
    that is missing, unknown, there twice, of the wrong shape or type, or not where it should be, bytes missing or left
    over at the end.
    """
    try:
        with path.open("rb") as file:
            return check_gguf_stream(file, path.name)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error


def check_gguf_stream(file: IO[bytes], name: str) -> GgufInfo:
    """`check_gguf` of an open file; `name` stands in the errors."""
    try:
        return _Reader(file).check()
    except (ValueError, struct.error) as error:
        raise ArtifactError(f"{name} cannot be used: {error}", _DAMAGED) from error


class _Reader:
    """Raises ValueError for what cannot be used."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)

    def check(self) -> GgufInfo:
        if self._file.read(4) != MAGIC:
            raise ValueError("it is no GGUF file")
        version, n_tensors, n_keys = struct.unpack("<IQQ", self._bytes(20))
        if version != VERSION or n_keys > MAX_KEYS:
            raise ValueError(f"version {version} with {n_keys} keys; expected version {VERSION}")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text()
            if key in metadata:
                raise ValueError(f"{key} is there twice")
            metadata[key] = self._value(*struct.unpack("<I", self._bytes(4)))
        dims = _dims(metadata)
        quantization = next((q for q in QUANTIZATIONS.values() if q.ftype == metadata.get("general.file_type")), None)
        if quantization is None or (reason := check_fits(dims, quantization)):
            raise ValueError(reason if quantization else "its general.file_type is none of " + ", ".join(QUANTIZATIONS))
        _check_values(metadata, dims)
        self._check_tensors(n_tensors, layout(dims, quantization))
        return GgufInfo(dims, quantization.name, metadata, self._size_bytes)

    def _check_tensors(self, count: int, expected: list[Stored]) -> None:
        if count != len(expected):
            raise ValueError(f"it has {count} tensors, not {len(expected)}")
        known = {tensor.name: tensor for tensor in expected}
        places = []
        for _ in range(count):
            name = self._text()
            tensor = known.pop(name, None)
            if tensor is None:
                raise ValueError(f"tensor {name!r} is unknown or there twice")
            (rank,) = struct.unpack("<I", self._bytes(4))
            if rank != len(tensor.shape):
                raise ValueError(f"{name} has {rank} dimensions, not {len(tensor.shape)}")
            *shape, kind, offset = struct.unpack(f"<{rank}QIQ", self._bytes(8 * rank + 12))
            if (*reversed(shape), kind) != (*tensor.shape, tensor.stored_as.type_code):
                raise ValueError(f"{name} is {shape} of type {kind}, not {list(reversed(tensor.shape))}")
            places.append((offset, tensor))
        end = 0
        for offset, tensor in sorted(places, key=lambda place: place[0]):
            if offset != end:
                raise ValueError(f"{tensor.name} lies at {offset}, not at {end}")
            end += tensor.size_bytes + padding(tensor.size_bytes)
        start = self._file.tell() + padding(self._file.tell())
        if start + end != self._size_bytes:
            raise ValueError(f"it has {self._size_bytes} bytes, not {start + end}")
        self._check_weights(start, places)

    def _check_weights(self, start: int, places: list[tuple[int, Stored]]) -> None:
        for offset, tensor in places:
            self._file.seek(start + offset)
            if not tensor.source.endswith(".bias") and is_zero(self._file, tensor.stored_as, tensor.size_bytes):
                raise ValueError(f"{tensor.name} is all zeros")

    def _value(self, kind: int) -> Any:  # noqa: ANN401
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            kind, count = struct.unpack("<IQ", self._bytes(12))
            if count > MAX_ITEMS or kind not in (_STRING, _I32):
                raise ValueError(f"it claims a list of {count} of type {kind}")
            if kind == _STRING:
                return [self._text() for _ in range(count)]
            return list(struct.unpack(f"<{count}i", self._bytes(4 * count)))
        if kind not in (_U32, _F32, _BOOL):  # runtimes end at a value of another type than they ask for
            raise ValueError(f"it has a value of type {kind}")
        code = _CODES[kind]
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(code)))[0]

    def _text(self) -> str:
        (length,) = struct.unpack("<Q", self._bytes(8))
        if length > MAX_TEXT_BYTES:
            raise ValueError(f"it claims a text of {length} bytes")
        return self._bytes(length).decode()

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("it ends too early")
        return data


def _check_values(metadata: Mapping[str, Any], dims: Dims) -> None:
    for key, expected in settled(dims).items():
        found = metadata.get(key)
        if type(found) is not type(expected) or found != expected:
            raise ValueError(f"its {key} is {found!r}, not {expected!r}")
    for key, kind, count in (
        ("tokens", str, dims.n_vocab),
        ("token_type", int, dims.n_vocab),
        ("merges", str, None),
    ):
        values = metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(values, list) or not values or not all(type(value) is kind for value in values):
            raise ValueError(f"it has no tokenizer.ggml.{key}")
        if count is not None and len(values) != count:
            raise ValueError(f"tokenizer.ggml.{key} does not list {count}")
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        values = metadata.get(f"stt.whisper.{key}", [])
        if not isinstance(values, list) or not all(type(each) is int and 0 <= each < dims.n_vocab for each in values):
            raise ValueError(f"its stt.whisper.{key} are no tokens")


def _dims(metadata: Mapping[str, Any]) -> Dims:
    if metadata.get("general.architecture") != "whisper" or "stt.variant" not in metadata:
        raise ValueError("it holds no Whisper for transcribe.cpp")

    def number(key: str) -> int:
        value = metadata.get(f"stt.whisper.{key}")
        if type(value) is not int:
            raise ValueError(f"its stt.whisper.{key} is {value!r}")
        return value

    dims = Dims(
        n_vocab=number("decoder.vocab_size"),
        n_audio_ctx=number("encoder.max_source_positions"),
        n_audio_state=number("encoder.d_model"),
        n_audio_head=number("encoder.n_heads"),
        n_audio_layer=number("encoder.n_layers"),
        n_text_ctx=number("decoder.max_target_positions"),
        n_text_state=number("decoder.d_model"),
        n_text_head=number("decoder.n_heads"),
        n_text_layer=number("decoder.n_layers"),
        n_mels=number("encoder.num_mel_bins"),
    )
    if reason := check_dims(dims):
        raise ValueError(f"its header says {reason}")
    return dims
