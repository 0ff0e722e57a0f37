"""Every quantisation is heard in the runtime that will load it, Core ML's in the evaluator of its programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import filelock
import pytest

import device_profiles
from exporters import export_to
from exporters.coreml_check import check_coreml
from exporters.runtimes import open_artifact
from idiolect.files import folder_bytes
from idiolect.transcriber import DecodingOptions
from tests.exporters.helpers import NEEDS_COREML

RUNTIMES = {
    "ggml": "pywhispercpp",
    "gguf": "transcribe_cpp",
    "onnx": "onnxruntime",
    "sherpa-onnx": "sherpa_onnx",
    "ctranslate2": "faster_whisper",
}
ELSEWHERE = {("ggml", "f16"), ("ggml", "q4_0"), ("gguf", "f16"), ("onnx", "fp32"), ("onnx", "int8")}
ELSEWHERE |= {("sherpa-onnx", "fp32"), ("ctranslate2", "int8"), ("ggml", "f32")}
"""Heard by the tests of their runtimes; whisper.cpp takes no float32 weights, and the export says so."""
CLIPS = ("human/digits_120.ogg", "human/digits_121.ogg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "quantization"),
    [(f, q) for f in RUNTIMES for q in device_profiles.FORMATS[f] if (f, q) not in ELSEWHERE],
)
def test_it_is_heard(nano: Path, voices: Path, tmp_path: Path, format: str, quantization: str) -> None:
    if find_spec(RUNTIMES[format]) is None:
        pytest.skip(f"needs {RUNTIMES[format]}")
    export_to(nano, format, quantization, tmp_path / "model")
    _hear(tmp_path / "model", voices)


COMPRESS = """
import sys
from pathlib import Path
import coremltools as ct
from exporters.coreml_convert import _COMPRESSIONS, _save
source, folder = map(Path, sys.argv[1:])
for quantization in ("int8", "palette6"):
    for name in ("AudioEncoder.mlpackage", "TextDecoder.mlpackage"):
        model = ct.models.MLModel(str(source / name), skip_model_load=True)
        _save(_COMPRESSIONS[quantization](model), folder / f"{quantization}_whisper-base" / name)
"""


@pytest.fixture(scope="module")
def compressed(nano_coreml: Path) -> Path:
    """A folder of nano for WhisperKit in int8 and in palette6, made by the first process that needs it."""
    folder = nano_coreml.parent / "compressed"
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            shutil.copytree(nano_coreml, folder / "f16")  # coremltools writes into what it opens
            for quantization in ("int8", "palette6"):
                parts = shutil.ignore_patterns("AudioEncoder*", "TextDecoder*")
                shutil.copytree(nano_coreml, folder / f"{quantization}_whisper-base", ignore=parts)
            command = [sys.executable, "-c", COMPRESS, str(folder / "f16"), str(folder)]
            subprocess.run(command, check=True, capture_output=True)
    return folder


class TestCoreMl:
    """float16's programs (heard in test_coreml_runtime.py), compressed and saved as the export does: to convert them
    once more would take a minute."""

    pytestmark = NEEDS_COREML

    @pytest.mark.slow
    @pytest.mark.parametrize("quantization", ["int8", "palette6"])
    def test_it_is_heard(self, compressed: Path, voices: Path, quantization: str) -> None:
        folder = compressed / f"{quantization}_whisper-base"
        assert check_coreml(folder).quantization == quantization
        _hear(folder, voices)

    @pytest.mark.slow
    def test_palettes_are_smaller(self, compressed: Path) -> None:
        int8, palette6 = (folder_bytes(compressed / f"{name}_whisper-base") for name in ("int8", "palette6"))
        assert palette6 < 0.9 * int8


def _hear(model: Path, voices: Path) -> None:
    from training.audio import decode
    from training.scoring import error_rates

    said = {row["file_name"]: row["text"] for row in map(json.loads, _rows(voices / "human"))}
    transcriber = open_artifact(model, threads=1)
    try:
        options = DecodingOptions(audio_context="full")
        heard = [
            answer.text for answer in transcriber.transcribe_many([decode(voices / clip) for clip in CLIPS], options)
        ]
    finally:
        transcriber.close()
    assert error_rates([said[Path(clip).name] for clip in CLIPS], heard).wer < 0.3, heard


def _rows(folder: Path) -> list[str]:
    return (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
