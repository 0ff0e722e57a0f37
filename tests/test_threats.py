"""The list of threats fits the tree; `make threats` then takes each defence away."""

from __future__ import annotations

import ast
import re

import pytest

from tests.threats import ROOT, Threat, load


@pytest.mark.slow
@pytest.mark.parametrize("threat", load(), ids=lambda threat: f"{threat.row}-{threat.what}")
def test_each_defence_is_in_its_place_and_has_its_test(threat: Threat) -> None:
    assert threat.without
    if threat.file.endswith(".py"):
        ast.parse(threat.without)
    path, _, name = threat.test.partition("::")
    functions = [
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert name in functions


def test_nothing_is_unpickled() -> None:
    """What comes from outside is read as safetensors or JSON; a pickle can run anything."""
    for package in ("daemon", "exporters", "training", "idiolect", "device_profiles"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"torch\.load\(|\bpickle\b.*\bloads?\(", path.read_text(encoding="utf-8")), path


def test_zeroconf_is_new_enough() -> None:
    """GHSA-qc2x-6f54-m6h9 (0.149.16) and the bounded cache (0.149.7)."""
    for file in ("pyproject.toml", "constraints.txt"):
        (line,) = [line for line in (ROOT / file).read_text().splitlines() if "zeroconf" in line and "_" not in line]
        version = line.split("=")[-1].strip('",')
        assert [int(part) for part in version.split(".")[:2]] >= [0, 150]
