"""A Core ML package read without Core ML: what its program takes, gives and does, and whether its weights are whole.

Only the few fields that matter are read, from the bytes themselves: nothing heavy is imported, and no native reader
sees a damaged file. Source: coremltools 9.0, `mlmodel/format/Model.proto`, `FeatureTypes.proto`, `MIL.proto` and
`mlmodel/src/MILBlob/Blob/StorageFormat.hpp`.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from exporters.whisperkit import OPSET, Contract, Dtype, Feature
from idiolect.errors import ArtifactError

MANIFEST = "Manifest.json"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

_MAX_MODEL_BYTES = 64 << 20  # large has 2 MB of program: weights lie in a file of their own
_IN_PROGRAM = "@model_path/weights/weight.bin"
_ARRAY_TYPES: dict[int, Dtype] = {65_552: "float16", 65_568: "float32", 131_104: "int32"}
_TENSOR_TYPES: dict[int, Dtype] = {10: "float16", 11: "float32", 23: "int32"}
_TENSOR_BYTES = {1: 1, 10: 2, 11: 4, 12: 8, 21: 1, 22: 2, 23: 4, 31: 1, 32: 2, 33: 4}
_BLOB_SENTINEL, _BLOB_HEADER_BYTES = 0xDEADBEEF, 64

_Value: TypeAlias = int | memoryview


@dataclass(frozen=True)
class Package:
    """What a package holds; `ops` counts the operations of its program."""

    spec_version: int
    contract: Contract
    ops: Counter[str]


def read_package(path: Path) -> Package:
    """Read and check one `.mlpackage`.

    Raises ArtifactError: a file that is missing, a link, unreadable or cut short, a program that is not one function
    for iOS 16, weights that are not where the program says, or a description that is not the program's.
    """
    try:
        _check_files(path)
        _check_manifest(path)
        size_bytes = (path / MODEL).stat().st_size
        if size_bytes > _MAX_MODEL_BYTES:
            raise _Damaged(f"its program has {size_bytes} bytes")
        model = _Message((path / MODEL).read_bytes())
        described = _described(model.one(2))
        with (path / WEIGHTS).open("rb") as file:
            blobs = _Blobs(file, (path / WEIGHTS).stat().st_size)
            program, ops = _program(model.one(502), blobs)
            blobs.check_end()
        if described.inputs != program.inputs or _names(described.outputs) != _names(program.outputs):
            raise _Damaged("its description and its program take or give different things")
        return Package(model.integer(1), described, ops)
    except OSError as error:
        raise ArtifactError(f"{path.name} cannot be used: {error.strerror}", _HINT) from error
    except (_Damaged, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name} cannot be used: {error}", _HINT) from None


_HINT = "the package is damaged or was not copied whole; export or pull it again"


class _Damaged(Exception):
    pass


class _Message:
    """The fields of one protobuf message. Raises _Damaged where its bytes are not one."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._fields: dict[int, list[_Value]] = {}
        for number, value in _fields(memoryview(data)):
            self._fields.setdefault(number, []).append(value)

    def all(self, number: int) -> list[_Message]:
        return [_Message(value) for value in self._bytes(number)]

    def one(self, number: int) -> _Message:
        """The sub-message; several of them are damage to us, though protobuf would merge them."""
        found = self.all(number)
        if len(found) != 1:
            raise _Damaged(f"field {number} is there {len(found)} times")
        return found[0]

    def has(self, number: int) -> bool:
        return number in self._fields

    def text(self, number: int) -> str:
        return "".join(self.texts(number)[-1:])

    def texts(self, number: int) -> list[str]:
        return [bytes(value).decode() for value in self._bytes(number)]

    def integer(self, number: int) -> int:
        """The last value, 0 where there is none."""
        return self.integers(number)[-1] if number in self._fields else 0

    def integers(self, number: int) -> tuple[int, ...]:
        """A repeated integer, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            found += [value] if isinstance(value, int) else _varints(value)
        return tuple(found)

    def _bytes(self, number: int) -> list[memoryview]:
        values = self._fields.get(number, [])
        if not all(isinstance(value, memoryview) for value in values):
            raise _Damaged(f"field {number} is a number")
        return [value for value in values if isinstance(value, memoryview)]


def _fields(data: memoryview) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"its bytes are not a Core ML model (wire type {kind})")
        if at + length > len(data):
            raise _Damaged("its program ends too early")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Damaged("its program ends too early")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise _Damaged("its bytes are not a Core ML model (a number has no end)")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _check_files(path: Path) -> None:
    for name in (MANIFEST, MODEL, WEIGHTS):
        file = path / name
        if not file.is_file():
            raise _Damaged(f"{name} is missing")
        if any(part.is_symlink() for part in (file, *file.parents[: len(Path(name).parts)])):
            raise _Damaged(f"{name} is a link")


def _check_manifest(path: Path) -> None:
    manifest: Any = json.loads((path / MANIFEST).read_bytes())
    try:
        items = {key: entry["path"] for key, entry in manifest["itemInfoEntries"].items()}
        root = items[manifest["rootModelIdentifier"]]
    except (TypeError, KeyError, AttributeError):
        raise _Damaged(f"{MANIFEST} names no model") from None
    if root != MODEL.removeprefix("Data/") or not set(items.values()) <= {root, "com.apple.CoreML/weights"}:
        raise _Damaged(f"{MANIFEST} names {root!r} among {sorted(map(str, items.values()))}")


def _described(description: _Message) -> Contract:
    def features(number: int) -> tuple[Feature, ...]:
        return tuple(_feature(feature) for feature in description.all(number))

    return Contract(features(1), features(10))


def _feature(feature: _Message) -> Feature:
    name, array = feature.text(1), feature.one(3).one(5)
    dtype = _ARRAY_TYPES.get(array.integer(2))
    if dtype is None:
        raise _Damaged(f"{name} has the unknown type {array.integer(2)}")
    if any(array.has(number) for number in (21, 31)):
        raise _Damaged(f"{name} has no fixed shape")
    return Feature(name, array.integers(1), dtype)


def _program(program: _Message, blobs: _Blobs) -> tuple[Contract, Counter[str]]:
    """What the only function takes and gives (outputs by name alone), and its operations."""
    functions = {entry.text(1): entry.one(2) for entry in program.all(2)}
    if list(functions) != ["main"]:
        raise _Damaged(f"its program has the functions {', '.join(functions) or 'none'}, not main alone")
    function = functions["main"]
    bodies = [entry.text(1) for entry in function.all(3)]
    if bodies != [OPSET] or function.text(2) != OPSET:
        raise _Damaged(f"its program is written in {', '.join(bodies) or 'nothing'}, not {OPSET} alone")
    body = function.all(3)[0].one(2)
    ops: Counter[str] = Counter()
    inputs = tuple(Feature(named.text(1), *_tensor_type(named.one(2))) for named in function.all(1))
    known = {feature.name for feature in inputs}
    for operation in body.all(3):
        if operation.has(4):
            raise _Damaged(f"its program has an operation {operation.text(1)!r} with a body of its own")
        ops[operation.text(1)] += 1
        bindings = [binding for entry in operation.all(2) for given in entry.all(2) for binding in given.all(1)]
        _check_known((name for binding in bindings for name in binding.texts(1)), known)
        for holder in (*operation.all(5), *bindings):  # constants are attributes, or inputs given in place
            for value in holder.all(2):
                blobs.check(value)
        known |= {output.text(1) for output in operation.all(3)}
    _check_known(body.texts(2), known)
    return Contract(inputs, tuple(Feature(name, (), "float16") for name in body.texts(2))), ops


def _check_known(names: Iterable[str], known: Set[str]) -> None:
    for name in names:
        if name not in known:
            raise _Damaged(f"its program uses {name!r}, which nothing gives")


def _tensor_type(value_type: _Message) -> tuple[tuple[int, ...], Dtype]:
    shape, code = _shape(value_type.one(1)), value_type.one(1).integer(1)
    if code not in _TENSOR_TYPES:
        raise _Damaged(f"its program takes the unknown type {code}")
    return shape, _TENSOR_TYPES[code]


def _shape(tensor: _Message) -> tuple[int, ...]:
    return tuple(dimension.one(1).integer(1) for dimension in tensor.all(3))


class _Blobs:
    """weight.bin: a header, then blobs that each have a header with type, size and place."""

    def __init__(self, file: Any, size_bytes: int) -> None:  # noqa: ANN401
        self._file, self._size_bytes, self._end = file, size_bytes, _BLOB_HEADER_BYTES
        _, version = struct.unpack("<2I", self._read(0)[:8])
        if version != 2:
            raise _Damaged(f"{WEIGHTS} is of version {version}, not 2")

    def check(self, value: _Message) -> None:
        """Raise _Damaged when a constant lies in the file and is not whole there."""
        if not value.has(5):
            return
        blob, tensor = value.one(5), value.one(2).one(1)
        if blob.text(1) != _IN_PROGRAM:
            raise _Damaged(f"its weights lie in {blob.text(1)!r}")
        offset, width = blob.integer(2), _TENSOR_BYTES.get(tensor.integer(1), 0)
        sentinel, _, size_bytes, start = struct.unpack("<2I2Q", self._read(offset)[:24])
        expected = math.prod(_shape(tensor)) * width
        if sentinel != _BLOB_SENTINEL or size_bytes != expected:
            raise _Damaged(f"there are no weights of {expected} bytes at byte {offset} of {WEIGHTS}")
        if start + size_bytes > self._size_bytes:
            raise _Damaged(f"{WEIGHTS} ends {start + size_bytes - self._size_bytes} bytes too early")
        self._end = max(self._end, start + size_bytes)

    def check_end(self) -> None:
        """Raise _Damaged when the file does not end where the last of the constants checked does."""
        if self._size_bytes != self._end:
            raise _Damaged(f"{WEIGHTS} holds {self._size_bytes - self._end} bytes too many")

    def _read(self, offset: int) -> bytes:
        if offset + _BLOB_HEADER_BYTES > self._size_bytes:
            raise _Damaged(f"{WEIGHTS} ends too early")
        self._file.seek(offset)
        data: bytes = self._file.read(_BLOB_HEADER_BYTES)
        return data


def _names(features: tuple[Feature, ...]) -> list[str]:
    return [feature.name for feature in features]
