"""Small Whisper checkpoints of random weights, a second reader of ggml files, and ggml's own quantiser."""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.exporting import model_config
from exporters.layout import Dims, tensors
from idiolect.whisper import special_tokens

Floats: TypeAlias = npt.NDArray[np.float32]
Stored: TypeAlias = tuple[str, npt.NDArray[Any]]

NEEDS_COREML = [
    pytest.mark.coreml,
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("coremltools") is None, reason="coremltools is not installed: idiolect[coreml]"),
]
SMALL = Dims(51_865, 1500, 32, 1, 1, 448, 32, 1, 1, 80)


def dims(**changes: int) -> Dims:
    """`SMALL` with other numbers; `width` sets both sides."""
    width = changes.pop("width", SMALL.n_audio_state)
    return replace(SMALL, n_audio_state=width, n_text_state=width, **changes)


def config(dims: Dims) -> dict[str, Any]:
    """config.json of a model with these dimensions."""
    return {
        **model_config(dims),
        "max_length": 225,  # a generation setting that converters were known to take for the size of a table
    }


def weights(dims: Dims, seed: int = 0) -> dict[str, Floats]:
    """Random float32 weights by Hugging Face name with `model.`."""
    random = np.random.default_rng(seed)
    return {
        f"model.{tensor.source}": random.standard_normal(tensor.shape, np.float32) * np.float32(0.1)
        for tensor in tensors(dims)
    }


def vocabulary(n_vocab: int) -> dict[str, int]:
    """Made-up tokens, end-of-text where this vocabulary has it."""
    eot = special_tokens(n_vocab).eot
    return {"Ġ" + str(index): index for index in range(eot)} | {"<|endoftext|>": eot}


@cache
def _vocabulary_json(n_vocab: int) -> str:
    return json.dumps(vocabulary(n_vocab))


def make_checkpoint(folder: Path, dims: Dims = SMALL, **changes: Any) -> Path:  # noqa: ANN401
    """A model folder; `changes` go to config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(dims) | changes))
    words = _vocabulary_json(dims.n_vocab)
    (folder / "vocab.json").write_text(words)
    (folder / "tokenizer.json").write_text(f'{{"model": {{"vocab": {words}, "merges": ["Ġ t"]}}}}')
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    save(folder / "model.safetensors", weights(dims))
    return folder


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """A safetensors file; uint16 arrays stand for bfloat16."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64"}
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": names[str(array.dtype)], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


def read_tensors(path: Path, sizes: Mapping[int, tuple[int, int]]) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Type, dimensions and bytes of every tensor of a ggml file; `sizes` gives (weights, bytes) a block by type."""
    data = path.read_bytes()
    n_mel, n_bins = struct.unpack_from("<2i", data, 48)
    at = 56 + 4 * n_mel * n_bins
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(count):
        at += 4 + int(struct.unpack_from("<i", data, at)[0])
    found = {}
    while at < len(data):
        n_dims, name_bytes, kind = struct.unpack_from("<3i", data, at)
        shape = struct.unpack_from(f"<{n_dims}i", data, at + 12)
        at += 12 + 4 * n_dims
        name = data[at : at + name_bytes].decode()
        at += name_bytes
        elements, size_bytes = sizes[kind]
        end = at + int(np.prod(shape)) // elements * size_bytes
        found[name] = kind, shape, data[at:end]
        at = end
    return found


def ggml_quantize(values: Floats, type_code: int, block_bytes: int) -> npt.NDArray[np.uint8]:
    """Blocks (blocks, bytes) of flat float32 values, made by the C library inside pywhispercpp's wheel."""
    assert type_code > 1  # f32 and f16 would be written past the end
    spec = find_spec("_pywhispercpp")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    places = [folder / "pywhispercpp.libs", folder / "pywhispercpp" / ".dylibs", folder]
    library = ctypes.CDLL(str(next(path for place in places for path in place.glob("libggml-base*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows, out = len(values) // 32, np.zeros((len(values) // 32, block_bytes), np.uint8)
    address = ctypes.c_void_p
    written = library.ggml_quantize_chunk(
        type_code, address(values.ctypes.data), address(out.ctypes.data),
        ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(32), None,
    )  # fmt: skip
    assert written == out.nbytes
    return out
