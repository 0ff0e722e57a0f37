"""Whisper's layers as ONNX nodes, in float32, float16, or with int8 weights that are multiplied as integers.

Same arithmetic as transformers' Whisper; patterns as onnxruntime fuses them (Gelu, MatMulIntegerToFloat, FusedMatMul).
"""

from __future__ import annotations

from collections.abc import Sequence

from exporters.layout import Dims
from exporters.onnx_graph import INT64, Graph
from exporters.plans import FLOAT, FLOAT16, INT8, Weight

MASKED = -1e4  # far below any score, and a number in float16
EMBEDDING = "decoder.embed_tokens.weight"


class Layers:
    """Adds layers to a graph. A value is the name of its tensor; B: batch, S: positions asked for, T: all positions."""

    def __init__(self, dims: Dims, quantization: str) -> None:
        self.dims = dims
        self.data_type = FLOAT16 if quantization == "fp16" else FLOAT
        self._int8 = quantization == "int8"
        self._quantized: dict[tuple[Graph, str], Sequence[str]] = {}

    def plain(self, graph: Graph, source: str, *shape: int) -> str:
        """A tensor of the checkpoint as it is."""
        return graph.add(Weight(source, self.data_type, shape, source, "plain"))

    def encoder(self, graph: Graph, features: str) -> str:
        """Hidden states (B, frames / 2, width) of log-mel features (B, mels, frames); any number of frames."""
        dims, width = self.dims, self.dims.n_audio_state
        hidden = self._gelu(graph, self._convolution(graph, features, "encoder.conv1", dims.n_mels, 1))
        hidden = self._gelu(graph, self._convolution(graph, hidden, "encoder.conv2", width, 2))
        hidden = graph.op("Transpose", hidden, perm=[0, 2, 1])
        table = self.plain(graph, "encoder.embed_positions.weight", dims.n_audio_ctx, width)
        count = graph.op("Shape", hidden, start=1, end=2)
        hidden = graph.op("Add", hidden, graph.op("Slice", table, graph.integers(0), count, graph.integers(0)))
        for index in range(dims.n_audio_layer):
            name = f"encoder.layers.{index}"
            normed = self.norm(graph, hidden, f"{name}.self_attn_layer_norm")
            keys, values = self.keys_values(graph, normed, f"{name}.self_attn", dims.n_audio_head)
            query = self.query(graph, normed, f"{name}.self_attn", dims.n_audio_head)
            heard = self.attend(graph, query, keys, values)
            hidden = graph.op("Add", hidden, self.linear(graph, heard, f"{name}.self_attn.out_proj"))
            hidden = self.feed_forward(graph, hidden, name)
        return self.norm(graph, hidden, "encoder.layer_norm")

    def embed(self, graph: Graph, tokens: str, positions: str) -> str:
        """(B, S, width) of int64 tokens (B, S) and the rows (S, width) of the position table.

        The table of tokens lies transposed, as the output layer multiplies with it: one copy serves both, and no
        token turns it around.
        """
        found = graph.op("Gather", self._embedding(graph), tokens, axis=1)
        found = graph.op("Transpose", found, perm=[1, 2, 0])
        if self._int8:
            scales = graph.op("Gather", f"{EMBEDDING}_scale", tokens, axis=0)
            scales = graph.op("Unsqueeze", scales, graph.integers(-1))
            found = graph.op("Mul", graph.op("Cast", found, to=FLOAT), scales)
        return graph.op("Add", found, positions)

    def positions(self, graph: Graph, past: str, total: str) -> str:
        """Rows `past` to `total` (int64, one element each) of the text position table."""
        table = self.plain(graph, "decoder.embed_positions.weight", self.dims.n_text_ctx, self.dims.n_text_state)
        return graph.op("Slice", table, past, total, graph.integers(0))

    def causal_mask(self, graph: Graph, past: str, total: str) -> str:
        """(S, total), added to attention scores: position past + i sees no later one."""
        one, none = graph.scalar(1, INT64), graph.integers(0)
        last = graph.op("Squeeze", total, none)
        columns = graph.op("Range", graph.scalar(0, INT64), last, one)
        rows = graph.op("Range", graph.op("Squeeze", past, none), last, one)
        seen = graph.op("LessOrEqual", columns, graph.op("Unsqueeze", rows, graph.integers(1)))
        return graph.op("Where", seen, graph.scalar(0.0, self.data_type), graph.scalar(MASKED, self.data_type))

    def logits(self, graph: Graph, hidden: str) -> str:
        """(B, S, vocabulary) with the token embedding as output layer."""
        return self._multiply(graph, self.norm(graph, hidden, "decoder.layer_norm"), self._embedding(graph))

    def query(self, graph: Graph, hidden: str, source: str, heads: int) -> str:
        """Scaled queries (B, heads, S, width / heads)."""
        size = self.dims.n_audio_state // heads
        query = self.linear(graph, hidden, f"{source}.q_proj")
        return self.split(graph, graph.op("Mul", query, graph.scalar(size**-0.5, self.data_type)), heads)

    def keys_values(self, graph: Graph, hidden: str, source: str, heads: int) -> tuple[str, str]:
        """Keys and values (B, heads, T, width / heads)."""
        keys = self.linear(graph, hidden, f"{source}.k_proj", bias=False)
        return self.split(graph, keys, heads), self.split(graph, self.linear(graph, hidden, f"{source}.v_proj"), heads)

    def split(self, graph: Graph, values: str, heads: int) -> str:
        """(B, T, width) → (B, heads, T, width / heads)."""
        shape = graph.integers(0, 0, heads, self.dims.n_audio_state // heads)
        return graph.op("Transpose", graph.op("Reshape", values, shape), perm=[0, 2, 1, 3])

    def attend(self, graph: Graph, query: str, keys: str, values: str, mask: str = "", out: str = "") -> str:
        """(B, S, width): softmax(query · keys + mask) · values, heads side by side."""
        scores = graph.op("MatMul", query, graph.op("Transpose", keys, perm=[0, 1, 3, 2]))
        weights = graph.op("Softmax", graph.op("Add", scores, mask) if mask else scores, axis=-1)
        heard = graph.op("Transpose", graph.op("MatMul", weights, values), perm=[0, 2, 1, 3])
        return graph.op("Reshape", heard, graph.integers(0, 0, self.dims.n_audio_state), out=out)

    def feed_forward(self, graph: Graph, hidden: str, source: str) -> str:
        """hidden + fc2(gelu(fc1(norm(hidden))))."""
        width = self.dims.n_audio_state
        inner = self.linear(graph, self.norm(graph, hidden, f"{source}.final_layer_norm"), f"{source}.fc1", 4 * width)
        inner = self.linear(graph, self._gelu(graph, inner), f"{source}.fc2", columns=4 * width)
        return graph.op("Add", hidden, inner)

    def norm(self, graph: Graph, hidden: str, source: str) -> str:
        """Layer norm over the width."""
        width = self.dims.n_audio_state
        weight, bias = (self.plain(graph, f"{source}.{kind}", width) for kind in ("weight", "bias"))
        return graph.op("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=1e-5)

    def linear(
        self, graph: Graph, values: str, source: str, rows: int = 0, columns: int = 0, *, bias: bool = True
    ) -> str:
        """values · weightᵀ + bias for a weight of (rows, columns), the width where not given."""
        rows, columns = rows or self.dims.n_audio_state, columns or self.dims.n_audio_state
        result = self._multiply(graph, values, self._matrix(graph, f"{source}.weight", rows, columns))
        return graph.op("Add", result, self.plain(graph, f"{source}.bias", rows)) if bias else result

    def _embedding(self, graph: Graph) -> str:
        return self._matrix(graph, EMBEDDING, self.dims.n_vocab, self.dims.n_text_state)

    def _matrix(self, graph: Graph, source: str, rows: int, columns: int) -> str:
        """A weight (rows, columns) of the checkpoint as (columns, rows); int8 with its scales beside it."""
        if not self._int8:
            return graph.add(Weight(source, self.data_type, (columns, rows), source, "transposed"))
        graph.add(Weight(f"{source}_scale", FLOAT, (rows,), source, "scale"))
        return graph.add(Weight(source, INT8, (columns, rows), source, "int8"))

    def _multiply(self, graph: Graph, values: str, matrix: str) -> str:
        if not self._int8:
            return graph.op("MatMul", values, matrix)
        quantized, scale, zero = self._quantize(graph, values)
        product = graph.op("Cast", graph.op("MatMulInteger", quantized, matrix, zero), to=FLOAT)
        return graph.op("Mul", product, graph.op("Mul", scale, f"{matrix}_scale"))

    def _quantize(self, graph: Graph, values: str) -> Sequence[str]:
        """uint8 values with their scale and zero point, found at run time; once for all that multiply them."""
        key = graph, values
        if key not in self._quantized:
            self._quantized[key] = graph.ops("DynamicQuantizeLinear", [values], 3)
        return self._quantized[key]

    def _convolution(self, graph: Graph, values: str, source: str, channels: int, stride: int) -> str:
        width = self.dims.n_audio_state
        weight = self.plain(graph, f"{source}.weight", width, channels, 3)
        bias = self.plain(graph, f"{source}.bias", width)
        return graph.op("Conv", values, weight, bias, kernel_shape=[3], pads=[1, 1], strides=[stride])

    def _gelu(self, graph: Graph, values: str) -> str:
        grown = graph.op("Div", values, graph.scalar(2**0.5, self.data_type))
        grown = graph.op("Add", graph.op("Erf", grown), graph.scalar(1.0, self.data_type))
        return graph.op("Mul", graph.op("Mul", values, grown), graph.scalar(0.5, self.data_type))
