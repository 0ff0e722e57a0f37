"""Every quantisation is heard in the runtime that will load it, Core ML's in the evaluator of its programs."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import device_profiles
from exporters import export_to
from exporters.runtimes import open_artifact
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


@NEEDS_COREML
@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "palette6"])  # f16: test_coreml_runtime.py
def test_compressed_core_ml_is_heard(nano_coreml: Path, voices: Path, tmp_path: Path, quantization: str) -> None:
    """float16's programs, compressed and saved as the export does: converting them once more takes a minute."""
    import coremltools as ct

    from exporters.coreml_check import check_coreml
    from exporters.coreml_convert import _COMPRESSIONS, _save

    folder, before = tmp_path / "nano_whisper-base", tmp_path / "f16"
    for place in (folder, before):
        shutil.copytree(nano_coreml, place)
    for part in ("AudioEncoder", "TextDecoder"):
        package = folder / f"{part}.mlpackage"
        shutil.rmtree(package)
        _save(_COMPRESSIONS[quantization](ct.models.MLModel(str(before / package.name), skip_model_load=True)), package)
    assert check_coreml(folder).quantization == quantization
    _hear(folder, voices)


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
