"""Where a Hugging Face folder keeps its weights: safetensors headers, shards, and reading a tensor in pieces."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: quantising stays in the processor's cache, and memory stays flat
MAX_HEADER_BYTES = 16 << 20
OVER_FLOAT16 = 65520  # the least that rounds to infinity
_DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie: file, offset, "F32", "F16" or "BF16", and its shape."""

    name: str
    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def chunks(self, elements: int = CHUNK_ELEMENTS) -> Iterator[npt.NDArray[np.float32]]:
        """The weights in order as flat float32 arrays of at most `elements`, each rounded to float16.

        whisper.cpp's own converter rounds even what it keeps as float32. Raises CheckpointError for a weight that is
        not finite in float16, and for a file that got shorter.
        """
        from exporters.blocks import via_f16

        return (values if self.dtype == "F16" else via_f16(values) for values in self.exact_chunks(elements))

    def exact_chunks(self, elements: int = CHUNK_ELEMENTS) -> Iterator[npt.NDArray[np.float32]]:
        """`chunks` without rounding, refused alike where float16 could not hold them."""
        import numpy as np

        for data in self._pieces(elements * _DTYPE_BYTES[self.dtype]):
            if self.dtype == "BF16":
                values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, "<f2" if self.dtype == "F16" else "<f4").astype(np.float32, copy=False)
            if not np.abs(values).max(initial=0) < OVER_FLOAT16:
                raise CheckpointError(
                    f"{self.name} in {self.file} holds weights that are not numbers or exceed 65504",
                    "the training diverged: train again with a lower learning rate",
                )
            yield values

    def same_bytes(self, other: StoredTensor) -> bool:
        """True when the two are equal in shape, type and every byte."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        return all(a == b for a, b in zip(self._pieces(), other._pieces(), strict=True))

    def _pieces(self, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
        left = math.prod(self.shape) * _DTYPE_BYTES[self.dtype]
        with self.file.open("rb") as file:
            file.seek(self.offset)
            while left:
                data = file.read(min(left, piece_bytes))
                if len(data) < min(left, piece_bytes):
                    raise CheckpointError(f"{self.file} ends inside {self.name}", "copy the model folder again")
                yield data
                left -= len(data)


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of model.safetensors, or of the shards that model.safetensors.index.json names.

    Names come without `model.`. Raises CheckpointError naming the file and what is wrong with it.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _header(single)
    if index.is_file():
        return _shards(folder, index)
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter, not a model", "merge it into its base model first")
    hint = "save it with model.save_pretrained(folder), which writes model.safetensors"
    if (folder / "pytorch_model.bin").exists():
        raise CheckpointError(f"{folder} holds pytorch_model.bin, which runs code when it is read", hint)
    raise CheckpointError(f"{folder} has no model.safetensors", hint)


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError with `hint`."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint) from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", hint) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object", hint)
    return value


def _shards(folder: Path, index: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    weight_map = read_json(index, "copy the model folder again").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no usable weight_map", "copy the model folder again")
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file of this folder")
        for key, tensor in _header(folder / name).items():
            if key in found:
                raise CheckpointError(f"{key} stands in {found[key].file.name} and in {name}")
            found[key] = tensor
    return found


def _header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, every one checked to lie inside it."""
    broken = "the file is damaged or was not copied whole; copy it again"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            size_bytes = path.stat().st_size
            if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
                raise CheckpointError(f"{path} is not a safetensors file ({size_bytes} bytes)", broken)
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", broken) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has an unreadable header", broken) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has an unreadable header", broken)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensor = _stored(path, name, entry, 8 + length, size_bytes)
            if tensor.name in found:
                raise CheckpointError(f"{path} holds {tensor.name} twice", "save the whole model again")
            found[tensor.name] = tensor
    return found


def _stored(path: Path, name: str, entry: object, data_start: int, size_bytes: int) -> StoredTensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # type: ignore[index]
        whole = all(type(value) is int and value >= 0 for value in (*shape, start, end))
        size_bytes_each = _DTYPE_BYTES.get(dtype)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: the header's entry for {name} is unreadable", "copy the file again") from None
    if size_bytes_each is None:
        accepted = ", ".join(_DTYPE_BYTES)
        raise CheckpointError(f"{path}: {name} is stored as {dtype}, not {accepted}", "save the model as float16")
    if not whole or end - start != math.prod(shape) * size_bytes_each or data_start + end > size_bytes:
        raise CheckpointError(f"{path} ends before {name} does", "the file was not copied whole; copy it again")
    return StoredTensor(name.removeprefix("model."), path, data_start + start, dtype, shape)
