"""A few hundred damaged artifacts; `python -m tests.exporters.fuzzing` makes ten thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import export_to
from tests.exporters.fuzzing import fuzz
from tests.exporters.helpers import NEEDS_COREML


@pytest.mark.slow
def test_readers_see_through_damage(
    small: Path,
    small_file: Path,
    small_gguf: Path,
    small_onnx: Path,
    small_sherpa: Path,
    small_ctranslate2: Path,
    tmp_path: Path,
) -> None:
    export_to(small, "huggingface", "float16", tmp_path / "folder")
    sound = {
        "ggml": small_file,
        "gguf": small_gguf,
        "onnx": small_onnx,
        "sherpa-onnx": small_sherpa,
        "ctranslate2": small_ctranslate2,
        "huggingface": tmp_path / "folder",
    }
    outcomes = fuzz(sound, tmp_path / "damaged", count=120, seed=1)
    assert all(outcomes[name, "refused"] > 10 for name in sound)


class TestCoreMl:
    pytestmark = NEEDS_COREML

    def test_packages_too(self, small_coreml: Path, tmp_path: Path) -> None:
        assert fuzz({"coreml": small_coreml}, tmp_path / "damaged", count=40, seed=1)["coreml", "refused"] > 20
