"""The four ONNX graphs of a Whisper: encoder and decoder as transformers.js calls them, and as sherpa-onnx does.

Sources: huggingface/transformers.js `src/models/modeling_utils.js` and huggingface/optimum-onnx (names, shapes and the
branch for the first step); k2-fsa/sherpa-onnx `scripts/whisper/export-onnx.py`, `csrc/offline-whisper-model.cc`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

from exporters.layout import Dims
from exporters.onnx_graph import BOOL, INT64, Graph
from exporters.onnx_layers import Layers
from exporters.plans import FLOAT, FLOAT16, Plan
from idiolect.whisper import LANGUAGES, special_tokens

QUANTIZATIONS = ("fp32", "fp16", "int8")
_KEY = "idiolect."


def plan(part: str, dims: Dims, quantization: str) -> Plan:
    """The file of one of `PARTS`. The same arguments give the same bytes around the same weights."""
    graph = Graph(part)
    about = {"part": part, "quantization": quantization, "dims": ",".join(map(str, astuple(dims)))}
    metadata = {f"{_KEY}{key}": value for key, value in about.items()}
    if part == "sherpa-encoder":
        metadata |= _sherpa_metadata(dims)
    PARTS[part](graph, Layers(dims, quantization))
    return graph.plan(metadata)


def identify(metadata: dict[str, str]) -> tuple[str, Dims, str]:
    """Part, dimensions and quantization from a file's metadata. Raises ValueError where they cannot be such."""
    part, quantization = metadata.get(f"{_KEY}part", ""), metadata.get(f"{_KEY}quantization", "")
    numbers = metadata.get(f"{_KEY}dims", "").split(",")
    if part not in PARTS or quantization not in QUANTIZATIONS or len(numbers) != len(Dims.__annotations__):
        raise ValueError("it was not exported by idiolect")
    if not all(number.isascii() and number.isdigit() and len(number) < 8 for number in numbers):
        raise ValueError("its dimensions are not numbers")
    return part, Dims(*map(int, numbers)), quantization


def _encoder(graph: Graph, layers: Layers) -> None:
    features = _features(graph, layers, "input_features")
    hidden = layers.encoder(graph, features)
    shape = ("batch_size", "encoder_sequence_length", layers.dims.n_audio_state)
    _out(graph, layers, hidden, "last_hidden_state", shape)


def _decoder(graph: Graph, layers: Layers) -> None:
    """One graph for all steps. `use_cache_branch` false: the first, which makes keys and values of the hidden states.

    Only that lies in a branch: what a branch of an If hands out is copied, and the keys of 30 s are 3 MB a layer.
    """
    dims, batch = layers.dims, "batch_size"
    tokens = graph.input("input_ids", INT64, (batch, "decoder_sequence_length"))
    states = graph.input("encoder_hidden_states", FLOAT, (batch, "encoder_sequence_length", dims.n_audio_state))
    heads, size = dims.n_text_head, dims.n_text_state // dims.n_text_head

    def caches(prefix: str, declare: Callable[..., str], own: str) -> dict[str, str]:
        found = {}
        for index in range(dims.n_text_layer):
            for kind in ("decoder.key", "decoder.value", "encoder.key", "encoder.value"):
                name, length = f"{index}.{kind}", own if kind.startswith("decoder") else "encoder_sequence_length"
                found[name] = declare(f"{prefix}.{name}", FLOAT, (batch, heads, length, size))
        return found

    past = caches("past_key_values", graph.input, "past_decoder_sequence_length")
    use_cache = graph.input("use_cache_branch", BOOL, (1,))
    logits = graph.output("logits", FLOAT, (batch, "decoder_sequence_length", dims.n_vocab))
    caches("present", graph.output, "past_decoder_sequence_length + decoder_sequence_length")

    before = graph.op("Shape", past["0.decoder.key"], start=2, end=3)
    total = graph.op("Add", before, graph.op("Shape", tokens, start=1, end=2))
    hidden = layers.embed(graph, tokens, layers.positions(graph, before, total))
    mask = layers.causal_mask(graph, before, total)
    for index in range(dims.n_text_layer):
        name = f"decoder.layers.{index}"
        normed = layers.norm(graph, hidden, f"{name}.self_attn_layer_norm")
        now = layers.keys_values(graph, normed, f"{name}.self_attn", dims.n_text_head)
        both = []
        for kind, value in zip(("key", "value"), now, strict=True):
            earlier = _in(graph, layers, past[f"{index}.decoder.{kind}"])
            both.append(graph.op("Concat", earlier, value, axis=2))
            _out(graph, layers, both[-1], f"present.{index}.decoder.{kind}")
        query = layers.query(graph, normed, f"{name}.self_attn", dims.n_text_head)
        heard = layers.attend(graph, query, both[0], both[1], mask)
        hidden = graph.op("Add", hidden, layers.linear(graph, heard, f"{name}.self_attn.out_proj"))
        query = _cross_query(graph, layers, hidden, name)
        encoded = tuple(past[f"{index}.encoder.{kind}"] for kind in ("key", "value"))
        present = [f"present.{index}.encoder.{kind}" for kind in ("key", "value")]
        heard = graph.ops(
            "If",
            [use_cache],
            [f"{name}.encoder_attn", *present],
            then_branch=_later_step(graph, layers, query, encoded),
            else_branch=_first_step(graph, layers, query, states, f"{name}.encoder_attn"),
        )[0]
        hidden = graph.op("Add", hidden, layers.linear(graph, heard, f"{name}.encoder_attn.out_proj"))
        hidden = layers.feed_forward(graph, hidden, name)
    _out(graph, layers, layers.logits(graph, hidden), logits)


def _first_step(outer: Graph, layers: Layers, query: str, states: str, source: str) -> Graph:
    """Attention to the encoder's states, and their keys and values for later steps."""
    dims, graph = layers.dims, Graph("first_step", outer)
    found = layers.keys_values(graph, _in(graph, layers, states), source, dims.n_text_head)
    heard = layers.attend(graph, query, *found)
    _branch_outputs(graph, layers, heard, [_out(graph, layers, value, "") for value in found])
    return graph


def _later_step(outer: Graph, layers: Layers, query: str, encoded: tuple[str, ...]) -> Graph:
    """Attention to the kept keys and values; what it hands out instead of them is empty, and callers ignore it."""
    dims, graph = layers.dims, Graph("later_step", outer)
    heard = layers.attend(graph, query, *(_in(graph, layers, value) for value in encoded))
    empty = graph.empty((0, dims.n_text_head, 1, dims.n_text_state // dims.n_text_head))
    _branch_outputs(graph, layers, heard, [graph.op("Identity", empty) for _ in encoded])
    return graph


def _branch_outputs(graph: Graph, layers: Layers, heard: str, keys_values: list[str]) -> None:
    dims = layers.dims
    graph.output(heard, layers.data_type, ("batch_size", "decoder_sequence_length", dims.n_text_state))
    for name in keys_values:
        graph.output(name, FLOAT, ("b", dims.n_text_head, "t", dims.n_text_state // dims.n_text_head))


def _sherpa_encoder(graph: Graph, layers: Layers) -> None:
    """Keys and values (layer, batch, T, width) that every decoder layer makes of the encoder's states."""
    dims = layers.dims
    hidden = layers.encoder(graph, _features(graph, layers, "mel"))
    shape = (dims.n_text_layer, "n_audio", "n_audio_ctx", dims.n_text_state)
    for kind, source, bias in (("k", "k_proj", False), ("v", "v_proj", True)):
        found = []
        for index in range(dims.n_text_layer):
            name = f"decoder.layers.{index}.encoder_attn.{source}"
            made = layers.linear(graph, hidden, name, bias=bias)
            found.append(graph.op("Unsqueeze", made, graph.integers(0)))
        stacked = graph.op("Concat", *found, axis=0)
        _out(graph, layers, stacked, f"n_layer_cross_{kind}", shape)


def _sherpa_decoder(graph: Graph, layers: Layers) -> None:
    """Steps over caches of full length (layer, batch, 448, width), of which `offset` positions are filled."""
    dims = layers.dims
    cache = (dims.n_text_layer, "n_audio", dims.n_text_ctx, dims.n_text_state)
    cross = (dims.n_text_layer, "n_audio", "n_audio_ctx", dims.n_text_state)
    tokens = graph.input("tokens", INT64, ("n_audio", "n_tokens"))
    kept = [graph.input(f"in_n_layer_self_{kind}_cache", FLOAT, cache) for kind in "kv"]
    encoded = [graph.input(f"n_layer_cross_{kind}", FLOAT, cross) for kind in "kv"]
    before = graph.input("offset", INT64, (1,))
    logits = graph.output("logits", FLOAT, ("n_audio", "n_tokens", dims.n_vocab))
    outputs = [graph.output(f"out_n_layer_self_{kind}_cache", FLOAT, cache) for kind in "kv"]

    total = graph.op("Add", before, graph.op("Shape", tokens, start=1, end=2))
    hidden = layers.embed(graph, tokens, layers.positions(graph, before, total))
    mask = layers.causal_mask(graph, before, total)
    written: list[list[str]] = [[], []]
    for index in range(dims.n_text_layer):
        name = f"decoder.layers.{index}"
        normed = layers.norm(graph, hidden, f"{name}.self_attn_layer_norm")
        both = []
        for which, (source, bias) in enumerate((("k_proj", False), ("v_proj", True))):
            now = layers.linear(graph, normed, f"{name}.self_attn.{source}", bias=bias)
            cached = _layer(graph, kept[which], index)
            earlier = graph.op("Slice", cached, graph.integers(0), before, graph.integers(1))
            both.append(graph.op("Concat", _in(graph, layers, earlier), now, axis=1))
            rest = graph.op("Slice", cached, total, graph.integers(dims.n_text_ctx), graph.integers(1))
            now = _out(graph, layers, now, "")
            whole = graph.op("Concat", earlier, now, rest, axis=1)
            written[which].append(graph.op("Unsqueeze", whole, graph.integers(0)))
        query = layers.query(graph, normed, f"{name}.self_attn", dims.n_text_head)
        keys, values = (layers.split(graph, each, dims.n_text_head) for each in both)
        heard = layers.attend(graph, query, keys, values, mask)
        hidden = graph.op("Add", hidden, layers.linear(graph, heard, f"{name}.self_attn.out_proj"))
        query = _cross_query(graph, layers, hidden, name)
        found = (_in(graph, layers, _layer(graph, each, index)) for each in encoded)
        heard = layers.attend(graph, query, *(layers.split(graph, each, dims.n_text_head) for each in found))
        hidden = graph.op("Add", hidden, layers.linear(graph, heard, f"{name}.encoder_attn.out_proj"))
        hidden = layers.feed_forward(graph, hidden, name)
    for each, output in zip(written, outputs, strict=True):
        graph.op("Concat", *each, out=output, axis=0)
    _out(graph, layers, layers.logits(graph, hidden), logits)


def _layer(graph: Graph, stacked: str, index: int) -> str:
    return graph.op("Gather", stacked, graph.scalar(index, INT64), axis=0)


def _cross_query(graph: Graph, layers: Layers, hidden: str, name: str) -> str:
    normed = layers.norm(graph, hidden, f"{name}.encoder_attn_layer_norm")
    return layers.query(graph, normed, f"{name}.encoder_attn", layers.dims.n_text_head)


def _features(graph: Graph, layers: Layers, name: str) -> str:
    return _in(graph, layers, graph.input(name, FLOAT, ("batch_size", layers.dims.n_mels, "frames")))


def _in(graph: Graph, layers: Layers, value: str) -> str:
    """What comes from outside is float32, whatever is computed in."""
    return graph.op("Cast", value, to=FLOAT16) if layers.data_type == FLOAT16 else value


def _out(graph: Graph, layers: Layers, value: str, name: str, shape: tuple[int | str, ...] = ()) -> str:
    """`value` as float32 under `name`; declared as an output where a shape is given."""
    if shape:
        graph.output(name, FLOAT, shape)
    if layers.data_type == FLOAT16:
        return graph.op("Cast", value, to=FLOAT, out=name)
    return graph.op("Identity", value, out=name) if name else value


def _sherpa_metadata(dims: Dims) -> dict[str, str]:
    special = special_tokens(dims.n_vocab)
    codes = LANGUAGES[: special.n_languages] if special.multilingual else ()
    sot_sequence = special.prompt("en")[:-1]
    values: dict[str, object] = {
        "model_type": "whisper",
        "n_mels": dims.n_mels,
        "n_audio_ctx": dims.n_audio_ctx,
        "n_text_layer": dims.n_text_layer,
        "n_text_ctx": dims.n_text_ctx,
        "n_text_state": dims.n_text_state,
        "n_vocab": dims.n_vocab,
        "sot": special.sot,
        "eot": special.eot,
        "blank_id": 220,
        "translate": special.translate,
        "transcribe": special.transcribe,
        "is_multilingual": int(special.multilingual),
        "no_timestamps": special.no_timestamps,
        "no_speech": special.no_timestamps - 1,
        "sot_sequence": ",".join(map(str, sot_sequence)),
        "all_language_tokens": ",".join(str(special.language(code)) for code in codes),
        "all_language_codes": ",".join(codes),
    }
    return {key: str(value) for key, value in values.items()}


PARTS: dict[str, Callable[[Graph, Layers], None]] = {
    "encoder": _encoder,
    "decoder": _decoder,
    "sherpa-encoder": _sherpa_encoder,
    "sherpa-decoder": _sherpa_decoder,
}
