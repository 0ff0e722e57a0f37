"""A small checkpoint of random weights and its exported file, made once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import filelock
import pytest

from exporters import export_file, export_to
from idiolect.child import CallbackReporter, Message
from tests.exporters.helpers import dims, make_checkpoint


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
def small_gguf(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint as GGUF in q4_0, read only."""
    path = tmp_path_factory.mktemp("exported") / "small.gguf"
    export_file(small, "gguf", "q4_0", path)
    return path


@pytest.fixture(scope="session")
def small_onnx(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint for transformers.js in int8, read only."""
    return exported(small, "onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def small_sherpa(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint for sherpa-onnx in int8, read only."""
    return exported(small, "sherpa-onnx", tmp_path_factory)


@pytest.fixture(scope="session")
def small_ctranslate2(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint for faster-whisper in int8, read only."""
    return exported(small, "ctranslate2", tmp_path_factory)


def exported(checkpoint: Path, format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 folder of a format."""
    path = tmp_path_factory.mktemp("exported") / format
    export_to(checkpoint, format, "int8", path)
    return path


@pytest.fixture(scope="session")
def nano_coreml(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano for WhisperKit in float16, read only."""
    return _coreml(nano, "f16", tmp_path_factory, "nano_whisper-base")


@pytest.fixture(scope="session")
def whole(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of width 64 with nano's tokenizer and no alignment heads, read only."""
    folder = make_checkpoint(tmp_path_factory.mktemp("whole"), dims(width=64))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
        shutil.copyfile(nano / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def small_coreml(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint `whole` for WhisperKit in int8, read only."""
    return _coreml(whole, "int8", tmp_path_factory, "small_whisper-tiny")


def _coreml(checkpoint: Path, quantization: str, tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Made by the first of the processes that need it: that takes half a minute of three children."""
    from exporters import coreml

    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    out = place / f"coreml-{name}" / name
    with filelock.FileLock(place / f"{name}.lock"):
        if not out.exists():
            told: list[Message] = []
            coreml.write(checkpoint, quantization, out, CallbackReporter(told.append))
            out.with_name("told").write_text(json.dumps([[message.kind, message.data] for message in told]))
    return out
