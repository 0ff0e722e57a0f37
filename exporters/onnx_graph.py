"""ONNX files written by hand: nodes in protobuf's wire format, and weights that are streamed from the checkpoint.

Source of the field numbers: onnx/onnx `onnx/onnx.proto`, IR version 8; opset 17 is read by every runtime since 2022.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from exporters.plans import FLOAT, FLOAT16, Plan, Weight, plan_bytes

INT64, BOOL = 7, 9
IR_VERSION = 8
OPSET = 17
MAX_FILE_BYTES = (1 << 31) - 1
"""What protobuf's libraries take."""

Attribute: TypeAlias = "int | float | Sequence[int] | Graph"


class Graph:
    """Nodes, inputs and outputs; a branch of an If shares the weights and constants of the graph it stands in."""

    def __init__(self, name: str, outer: Graph | None = None) -> None:
        self.name = name
        self.weights: dict[str, Weight] = outer.weights if outer else {}
        self._constants: dict[str, bytes] = outer._constants if outer else {}
        self._names: set[str] = outer._names if outer else set()
        self._nodes: list[bytes] = []
        self._values: list[bytes] = []

    def input(self, name: str, data_type: int, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension is a number or the name of one that varies."""
        self._values.append(_data(11, _value(name, data_type, shape)))
        return name

    def output(self, name: str, data_type: int, shape: Sequence[int | str]) -> str:
        """Declare an output, the result of a node made with that name."""
        self._values.append(_data(12, _value(name, data_type, shape)))
        return name

    def add(self, weight: Weight) -> str:
        """Have a weight in the file, once."""
        self.weights[weight.name] = weight
        return weight.name

    def integers(self, *values: int) -> str:
        """A 1-D int64 constant."""
        data = struct.pack(f"<{len(values)}q", *values)
        return self._constant("i_" + "_".join(map(str, values)), INT64, (len(values),), data)

    def scalar(self, value: float, data_type: int) -> str:
        """A constant of no dimensions: FLOAT, FLOAT16 or INT64."""
        code = {FLOAT: "<f", FLOAT16: "<e", INT64: "<q"}[data_type]
        return self._constant(f"s{data_type}_{value}", data_type, (), struct.pack(code, value))

    def empty(self, shape: Sequence[int]) -> str:
        """A float32 constant without elements."""
        return self._constant("e_" + "_".join(map(str, shape)), FLOAT, shape, b"")

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Attribute) -> str:
        """Add a node with one output; its name, `out` where given."""
        return self.ops(kind, inputs, [out or self._name(kind)], **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str], outputs: int | Sequence[str], **attributes: Attribute
    ) -> Sequence[str]:
        """Add a node with several outputs; their names, made up where only their number is given."""
        outputs = [self._name(kind) for _ in range(outputs)] if isinstance(outputs, int) else outputs
        node = b"".join(_data(1, name) for name in inputs) + b"".join(_data(2, name) for name in outputs)
        node += _data(3, outputs[0]) + _data(4, kind)
        node += b"".join(_data(5, _attribute(name, value)) for name, value in attributes.items())
        self._nodes.append(_data(1, node))
        return outputs

    def body(self) -> bytes:
        """The graph as a GraphProto, without weights and constants."""
        return b"".join([*self._nodes, _data(2, self.name), *self._values])

    def plan(self, metadata: Mapping[str, str]) -> Plan:
        """The whole file: metadata first, so that a reader finds it at once."""
        pieces: Plan = [self.body() + b"".join(_data(5, constant) for constant in self._constants.values())]
        for weight in self.weights.values():
            header = _tensor(weight.name, weight.data_type, weight.shape) + _length(9, weight.size_bytes)
            pieces += [_length(5, len(header) + weight.size_bytes) + header, weight]
        head = _integer(1, IR_VERSION) + _data(2, "idiolect") + _data(8, _integer(2, OPSET))
        head += b"".join(_data(14, _data(1, key) + _data(2, value)) for key, value in metadata.items())
        return [head + _length(7, plan_bytes(pieces)), *pieces]

    def _constant(self, name: str, data_type: int, shape: Sequence[int], data: bytes) -> str:
        self._constants[name] = _tensor(name, data_type, shape) + _data(9, data)
        return name

    def _name(self, kind: str) -> str:
        name = f"{kind}_{len(self._names)}"
        self._names.add(name)
        return name


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata at the start of a file that was written here. Raises ValueError for anything else."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag == 7 << 3 | 2:
            return found
        if tag & 7 == 2:
            entry, at = data[at : at + value], at + value
            if tag >> 3 == 14:
                key, text = _read_entry(entry)
                found[key] = text
        elif tag & 7 != 0:
            raise ValueError(f"field {tag >> 3} has the wire type {tag & 7}")
    raise ValueError("there is no graph")


def _read_entry(entry: bytes) -> tuple[str, str]:
    texts = []
    at = 0
    for field in (1, 2):
        tag, at = _read_varint(entry, at)
        length, at = _read_varint(entry, at)
        if tag != field << 3 | 2 or at + length > len(entry):
            raise ValueError("an entry of the metadata is damaged")
        texts.append(entry[at : at + length].decode())
        at += length
    return texts[0], texts[1]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")


def _varint(value: int) -> bytes:
    """Negative numbers as protobuf's int64: in two's complement of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _length(field: int, size_bytes: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(size_bytes)


def _data(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _length(field, len(value)) + value


def _tensor(name: str, data_type: int, shape: Sequence[int]) -> bytes:
    return b"".join(_integer(1, size) for size in shape) + _integer(2, data_type) + _data(8, name)


def _value(name: str, data_type: int, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_data(1, _integer(1, size) if isinstance(size, int) else _data(2, size)) for size in shape)
    return _data(1, name) + _data(2, _data(1, _integer(1, data_type) + _data(2, dims)))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, Graph):
        return _data(1, name) + _data(6, value.body()) + _integer(20, 5)
    if isinstance(value, float):
        return _data(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _integer(20, 1)
    if isinstance(value, int):
        return _data(1, name) + _integer(3, value) + _integer(20, 2)
    return _data(1, name) + b"".join(_integer(8, item) for item in value) + _integer(20, 7)
