"""A small checkpoint of random weights and its exported file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import export_file, export_to
from tests.exporters.helpers import make_checkpoint


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of width 32, read only."""
    return make_checkpoint(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small_file(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint as q4_0, read only."""
    path = tmp_path_factory.mktemp("exported") / "small.bin"
    export_file(small, "ggml", "q4_0", path)
    return path


@pytest.fixture(scope="session")
def small_onnx(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint for transformers.js in int8, read only."""
    return exported(small, "onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def small_sherpa(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint for sherpa-onnx in int8, read only."""
    return exported(small, "sherpa-onnx", tmp_path_factory)


def exported(checkpoint: Path, format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 folder of a format."""
    path = tmp_path_factory.mktemp("exported") / format
    export_to(checkpoint, format, "int8", path)
    return path
