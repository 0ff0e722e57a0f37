"""A small checkpoint of random weights and its exported file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import export_file
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
