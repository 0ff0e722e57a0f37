"""What a path is, told by what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import FORMATS
from exporters.checkpoint import read_dims
from exporters.kinds import KINDS, dims_of, find_kind, imported, kind_of
from idiolect.errors import ArtifactError


def test_every_format_has_a_kind_whose_functions_exist() -> None:
    assert {kind.name for kind in KINDS} == set(FORMATS)
    for name in (*FORMATS.values(), *(each for kind in KINDS for each in (kind.check, kind.runtime))):
        assert callable(imported(name))


def test_files_and_folders(
    small: Path,
    small_file: Path,
    small_onnx: Path,
    small_sherpa: Path,
    small_ctranslate2: Path,
    small_gguf: Path,
    tmp_path: Path,
) -> None:
    paths = (small_file, small_onnx, small_sherpa, small_ctranslate2, small_gguf)
    assert [kind_of(path).name for path in paths] == ["ggml", "onnx", "sherpa-onnx", "ctranslate2", "gguf"]
    assert {dims_of(path) for path in paths} == {read_dims(small)}
    assert find_kind(small) is None
    with pytest.raises(ArtifactError, match="is no exported model") as caught:
        kind_of(tmp_path)
    marks = "onnx/*.onnx (onnx), tokens.txt (sherpa-onnx), TextDecoder.* (coreml), model.bin (ctranslate2)"
    assert marks in caught.value.hint
    with pytest.raises(ArtifactError, match="No such file"):
        kind_of(tmp_path / "gone")
