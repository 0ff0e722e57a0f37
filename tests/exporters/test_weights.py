"""safetensors files: types, shards, and headers that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.weights import MAX_HEADER_BYTES, StoredTensor, find_tensors
from idiolect.errors import CheckpointError
from tests.exporters.helpers import save


def _values(tensor: StoredTensor, elements: int = 7) -> list[float]:
    return [float(value) for chunk in tensor.chunks(elements) for value in chunk]


def test_types_read_alike_in_pieces(tmp_path: Path) -> None:
    exact = (np.arange(-50, 50, dtype=np.float32) / 8).reshape(10, 10)
    bfloat = (exact.view(np.uint32) >> 16).astype(np.uint16)
    save(tmp_path / "model.safetensors", {"model.a": exact, "b": exact.astype(np.float16), "c": bfloat})
    found = find_tensors(tmp_path)
    assert [(name, tensor.dtype, tensor.shape) for name, tensor in found.items()] == [
        ("a", "F32", (10, 10)),
        ("b", "F16", (10, 10)),
        ("c", "BF16", (10, 10)),
    ]
    for tensor in found.values():
        assert _values(tensor) == exact.ravel().tolist()
        assert [len(chunk) for chunk in tensor.chunks(64)] == [64, 36]


def test_float32_is_rounded_to_float16(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {"a": np.array([1 + 2**-12, 0.1], np.float32)})
    assert _values(find_tensors(tmp_path)["a"]) == [1.0, float(np.float16(0.1))]


def test_shards(tmp_path: Path) -> None:
    save(tmp_path / "model-00001-of-00002.safetensors", {"model.a": np.ones(3, np.float32)})
    save(tmp_path / "model-00002-of-00002.safetensors", {"model.b": np.zeros(2, np.float16)})
    names = {"model.a": "model-00001-of-00002.safetensors", "model.b": "model-00002-of-00002.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    found = find_tensors(tmp_path)
    assert {name: _values(tensor) for name, tensor in found.items()} == {"a": [1, 1, 1], "b": [0, 0]}

    save(tmp_path / "model-00002-of-00002.safetensors", {"model.a": np.zeros(2, np.float16)})
    with pytest.raises(CheckpointError, match="a stands in model-00001-of-00002"):
        find_tensors(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 3}, {"a": "../other/model.safetensors"}])
def test_an_index_cannot_name_what_lies_elsewhere(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"weight_map|not a file of this folder"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 70_000.0])
def test_a_diverged_model_is_refused(tmp_path: Path, bad: float) -> None:
    values = np.zeros(1000, np.float32)
    values[777] = bad
    save(tmp_path / "model.safetensors", {"model.decoder.layer_norm.bias": values})
    with pytest.raises(CheckpointError, match=r"decoder\.layer_norm\.bias") as caught:
        _values(find_tensors(tmp_path)["decoder.layer_norm.bias"], 100)
    assert "lower learning rate" in caught.value.hint


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.zeros(100, np.float32)})
    tensor = find_tensors(tmp_path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="ends inside a"):
        _values(tensor)


def _entry(**changes: Any) -> Callable[[bytes], bytes]:  # noqa: ANN401
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    text = json.dumps({"a": {key: value for key, value in entry.items() if value is not None}}).encode()
    return lambda data: struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "not a safetensors file"),
        (lambda data: data[:5], "not a safetensors file"),
        (lambda data: data[:40], "not a safetensors file"),
        (lambda data: struct.pack("<Q", MAX_HEADER_BYTES + 1) + data[8:], "not a safetensors file"),
        (lambda data: data[:8] + b"\xff" + data[9:], "unreadable header"),
        (lambda data: struct.pack("<Q", 2) + b"[]", "unreadable header"),
        (lambda data: data[:-1], "ends before a does"),
        (_entry(data_offsets=[0, 9]), "ends before a does"),
        (_entry(data_offsets=[8, 16]), "ends before a does"),
        (_entry(data_offsets=[-8, 0]), "ends before a does"),
        (_entry(shape=[-1, -2]), "ends before a does"),
        (_entry(shape=[1 << 62]), "ends before a does"),
        (_entry(shape="xy"), "ends before a does"),
        (_entry(shape=None), "unreadable"),
        (_entry(data_offsets=[0]), "unreadable"),
        (_entry(dtype="F64"), "stored as F64, not F32, F16, BF16"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.zeros(2, np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=reason):
        find_tensors(tmp_path)


def test_folders_without_safetensors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        find_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="runs code"):
        find_tensors(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(CheckpointError, match="merge it"):
        find_tensors(tmp_path)
