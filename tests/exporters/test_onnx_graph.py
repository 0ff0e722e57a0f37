"""Bytes of ONNX files, read back by the onnx package."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.onnx_graph import INT64, Graph, read_metadata
from exporters.plans import FLOAT, FLOAT16, Plan, Weight, plan_bytes


def _bytes(plan: Plan) -> bytes:
    return b"".join(piece if isinstance(piece, bytes) else b"\1" * piece.size_bytes for piece in plan)


def _small() -> Graph:
    graph = Graph("small")
    x = graph.input("x", FLOAT, ("batch", 3))
    weight = graph.add(Weight("w", FLOAT, (3, 2), "source", "transposed"))
    inner = Graph("branch", graph)
    inner.output(inner.op("Identity", weight, out="inside"), FLOAT, (3, 2))
    chosen = graph.op("If", graph.input("flag", 9, (1,)), then_branch=inner, else_branch=inner)
    found = graph.op("MatMul", x, chosen)
    axes = graph.integers(-1, 1 << 40)
    graph.ops("Made", [found, axes, graph.scalar(1.5, FLOAT16)], ["y", "z"], sizes=[0, -1, 300], rate=0.25, count=-7)
    graph.output("y", FLOAT, ("batch", 2))
    return graph


def test_another_reader_finds_what_was_written() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx package")
    plan = _small().plan({"key": "value", "größe": "7"})
    data = _bytes(plan)
    assert len(data) == plan_bytes(plan)
    model = onnx.load_model_from_string(data)
    assert (model.ir_version, model.producer_name, model.opset_import[0].version) == (8, "idiolect", 17)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"key": "value", "größe": "7"}
    graph = model.graph
    assert [node.op_type for node in graph.node] == ["If", "MatMul", "Made"]
    assert [(value.name, value.type.tensor_type.elem_type) for value in graph.input] == [("x", 1), ("flag", 9)]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 3)
    made = {each.name: onnx.helper.get_attribute_value(each) for each in graph.node[2].attribute}
    assert made == {"sizes": [0, -1, 300], "rate": 0.25, "count": -7}
    assert onnx.helper.get_attribute_value(graph.node[0].attribute[0]).output[0].name == "inside"
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    assert arrays["w"].tobytes() == b"\1" * 24
    assert arrays["i_-1_1099511627776"].tolist() == [-1, 1 << 40]
    assert arrays[f"s{FLOAT16}_1.5"] == 1.5


def test_metadata_is_found_at_the_start() -> None:
    data = _bytes(_small().plan({"key": "value", "more": "x" * 5000}))
    assert read_metadata(data[:6000]) == {"key": "value", "more": "x" * 5000}
    for length in (0, 1, 7, 100, 5000):
        with pytest.raises(ValueError, match=r"no graph|does not end|damaged"):
            read_metadata(data[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_metadata_or_an_error(data: bytes) -> None:
    for start in (b"", _bytes(_small().plan({"key": "value"}))[:30]):
        with contextlib.suppress(ValueError):
            assert isinstance(read_metadata(start + data), dict)


def test_constants_are_kept_once() -> None:
    graph = Graph("one")
    assert graph.integers(1, 2) == graph.integers(1, 2) != graph.integers(12)
    assert graph.scalar(0, INT64) != graph.scalar(0, FLOAT)
