"""What lies in a whisper.cpp model file, and where: one table for the writer, the reader and the size forecast.

Little-endian, no padding: magic, 11 integers, mel filters, tokens, then every tensor with its own small header.
Source: ggml-org/whisper.cpp `models/convert-h5-to-ggml.py`, `src/whisper.cpp`, `examples/quantize/quantize.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from idiolect.whisper import MAX_POSITIONS, MAX_TEXT_POSITIONS, N_FFT

MAGIC = b"lmgg"
MEL_BINS = N_FFT // 2 + 1
QUANT_VERSION_STEP = 1000
_QUANT_VERSION = 2

Kind: TypeAlias = Literal["matrix", "convolution", "plain"]


@dataclass(frozen=True)
class Dims:
    """A Whisper's dimensions, in the order of the file's header; `n_*_state` is the model width."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int


@dataclass(frozen=True)
class Quantization:
    """How a matrix is stored: `block_bytes` for `block` weights, of which the first `scale_bytes` are f16 scales."""

    name: str
    ftype: int
    type_code: int
    block: int
    block_bytes: int
    scale_bytes: int

    @property
    def header_ftype(self) -> int:
        """The header's ftype; quantised files carry the version of the block layouts in the thousands."""
        return self.ftype + (QUANT_VERSION_STEP * _QUANT_VERSION if self.block > 1 else 0)

    def size_bytes(self, elements: int) -> int:
        """Bytes of a tensor of `elements` weights."""
        return elements // self.block * self.block_bytes


F32 = Quantization("f32", ftype=0, type_code=0, block=1, block_bytes=4, scale_bytes=4)
F16 = Quantization("f16", ftype=1, type_code=1, block=1, block_bytes=2, scale_bytes=2)
QUANTIZATIONS: dict[str, Quantization] = {
    quantization.name: quantization
    for quantization in (
        F32,
        F16,
        Quantization("q4_0", ftype=2, type_code=2, block=32, block_bytes=18, scale_bytes=2),
        Quantization("q4_1", ftype=3, type_code=3, block=32, block_bytes=20, scale_bytes=4),
        Quantization("q5_0", ftype=8, type_code=6, block=32, block_bytes=22, scale_bytes=2),
        Quantization("q5_1", ftype=9, type_code=7, block=32, block_bytes=24, scale_bytes=4),
        Quantization("q8_0", ftype=7, type_code=8, block=32, block_bytes=34, scale_bytes=2),
    )
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: its name, its name in a Hugging Face checkpoint (without `model.`), its shape there.

    `kind` "matrix" is quantised, "convolution" is f16 (f32 in a file of f32), "plain" always f32.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def file_dims(self) -> tuple[int, ...]:
        """Dimensions as the file gives them: reversed, and a convolution's bias as a row of its own."""
        shape = (*self.shape, 1) if self.source.endswith(("conv1.bias", "conv2.bias")) else self.shape
        return tuple(reversed(shape))

    @property
    def may_be_zero(self) -> bool:
        """True where all zeros are a sound value: only biases."""
        return self.source.endswith(".bias")

    def stored_as(self, quantization: Quantization) -> Quantization:
        """How this tensor is stored in a file of that quantization."""
        convolution = F32 if quantization is F32 else F16
        return {"matrix": quantization, "convolution": convolution, "plain": F32}[self.kind]


def tensors(dims: Dims) -> list[Tensor]:
    """Every tensor of a model with these dimensions, in the order they are written. No other may be in the file."""
    width = dims.n_audio_state
    found = [
        Tensor("encoder.conv1.weight", "encoder.conv1.weight", (width, dims.n_mels, 3), "convolution"),
        Tensor("encoder.conv1.bias", "encoder.conv1.bias", (width,), "plain"),
        Tensor("encoder.conv2.weight", "encoder.conv2.weight", (width, width, 3), "convolution"),
        Tensor("encoder.conv2.bias", "encoder.conv2.bias", (width,), "plain"),
    ]
    for side, layers, positions in (
        ("encoder", dims.n_audio_layer, dims.n_audio_ctx),
        ("decoder", dims.n_text_layer, dims.n_text_ctx),
    ):
        if side == "decoder":
            source = "decoder.embed_tokens.weight"
            found.append(Tensor("decoder.token_embedding.weight", source, (dims.n_vocab, width), "matrix"))
        source = f"{side}.embed_positions.weight"
        found.append(Tensor(f"{side}.positional_embedding", source, (positions, width), "plain"))
        for layer in range(layers):
            found += _layer(side, layer, width)
        found += _norm("encoder.ln_post" if side == "encoder" else "decoder.ln", f"{side}.layer_norm", width)
    return found


def check_dims(dims: Dims) -> str:
    """Why no Whisper runtime takes these dimensions, in plain words; empty when they fit."""
    wanted: list[tuple[str, int, tuple[int, ...]]] = [
        ("vocabulary", dims.n_vocab, (51_864, 51_865, 51_866)),
        ("audio positions", dims.n_audio_ctx, (MAX_POSITIONS,)),
        ("text positions", dims.n_text_ctx, (MAX_TEXT_POSITIONS,)),
        ("mel bands", dims.n_mels, (80, 128)),
        ("decoder width", dims.n_text_state, (dims.n_audio_state,)),
    ]
    for name, value, accepted in wanted:
        if value not in accepted:
            return f"{name} {value}; accepted: {', '.join(map(str, accepted))}"
    for name, value in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        if not 1 <= value <= 64:
            return f"{value} {name} layers; accepted: 1 to 64"
    if not 1 <= dims.n_audio_state <= 8192:
        return f"width {dims.n_audio_state}; accepted: 1 to 8192"
    for name, heads in (("encoder", dims.n_audio_head), ("decoder", dims.n_text_head)):
        if heads < 1 or dims.n_audio_state % heads:
            return f"width {dims.n_audio_state} does not divide by {heads} {name} heads"
    return ""


def check_fits(dims: Dims, quantization: Quantization) -> str:
    """Why these dimensions cannot be stored in that quantization; empty when they can."""
    if dims.n_audio_state % quantization.block:
        name, block = quantization.name, quantization.block
        return f"{name} stores weights in blocks of {block}, and the model's width {dims.n_audio_state} is no multiple"
    return ""


def _layer(side: str, layer: int, width: int) -> Iterator[Tensor]:
    name, source = f"{side}.blocks.{layer}", f"{side}.layers.{layer}"
    yield from _attention(f"{name}.attn", f"{source}.self_attn", width)
    yield from _norm(f"{name}.attn_ln", f"{source}.self_attn_layer_norm", width)
    if side == "decoder":
        yield from _attention(f"{name}.cross_attn", f"{source}.encoder_attn", width)
        yield from _norm(f"{name}.cross_attn_ln", f"{source}.encoder_attn_layer_norm", width)
    yield from _linear(f"{name}.mlp.0", f"{source}.fc1", 4 * width, width)
    yield from _linear(f"{name}.mlp.2", f"{source}.fc2", width, 4 * width)
    yield from _norm(f"{name}.mlp_ln", f"{source}.final_layer_norm", width)


def _attention(name: str, source: str, width: int) -> Iterator[Tensor]:
    yield from _linear(f"{name}.query", f"{source}.q_proj", width, width)
    yield Tensor(f"{name}.key.weight", f"{source}.k_proj.weight", (width, width), "matrix")
    yield from _linear(f"{name}.value", f"{source}.v_proj", width, width)
    yield from _linear(f"{name}.out", f"{source}.out_proj", width, width)


def _linear(name: str, source: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", f"{source}.weight", (rows, columns), "matrix")
    yield Tensor(f"{name}.bias", f"{source}.bias", (rows,), "plain")


def _norm(name: str, source: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", f"{source}.weight", (width,), "plain")
    yield Tensor(f"{name}.bias", f"{source}.bias", (width,), "plain")
