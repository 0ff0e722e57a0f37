"""WhisperKit's folder: all or nothing, made by children that can be stopped, fail or be killed."""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import exporters.coreml
from exporters.checkpoint import read_dims
from exporters.coreml import write
from exporters.coreml_check import CoremlInfo, check_coreml
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import CheckpointError, ExportError, JobStopped, MissingExtra, UsageError
from idiolect.files import folder_bytes
from tests.exporters.helpers import NEEDS_COREML, dims, save, weights

pytestmark = NEEDS_COREML

PACKAGE = {
    "Manifest.json",
    "Data/com.apple.CoreML/model.mlmodel",
    "Data/com.apple.CoreML/weights/weight.bin",
}


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The small checkpoint, to be damaged."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_whisperkit_loads(nano: Path, nano_coreml: Path, small_coreml: Path) -> None:
    packages = {
        f"{part}.mlpackage/{name}" for part in ("MelSpectrogram", "AudioEncoder", "TextDecoder") for name in PACKAGE
    }
    companions = {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"}
    assert _files(small_coreml) == _files(nano_coreml) == packages | companions
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in nano_coreml.rglob("*") if path.is_file())
    assert check_coreml(nano_coreml) == CoremlInfo(read_dims(nano), "f16", True, folder_bytes(nano_coreml))
    assert check_coreml(small_coreml) == CoremlInfo(dims(width=64), "int8", False, folder_bytes(small_coreml))
    assert {path.name for path in small_coreml.parent.iterdir()} == {small_coreml.name, "told"}


def test_progress_and_metrics(small_coreml: Path) -> None:
    told = [Message(kind, data) for kind, data in json.loads(small_coreml.with_name("told").read_text())]
    progress = [message.data for message in told if message.kind == "progress"]
    assert [data["done"] for data in progress] == list(range(1, 13))
    assert {data["total"] for data in progress} == {12}
    metrics = [message.data for message in told if message.kind == "metric"]
    assert [data["part"] for data in metrics] == ["MelSpectrogram", "AudioEncoder", "TextDecoder"]
    assert all(100e6 < data["peak_bytes"] < 2e9 for data in metrics)
    assert not [message for message in told if message.kind == "warning"]


def _encoder(checkpoint: Path, quantization: str, place: Path) -> str:
    """Converted into a package in `place` by a child; what it said."""
    package = place / "AudioEncoder.mlpackage"
    command = [sys.executable, "-m", "exporters.coreml_convert"]
    command += [str(checkpoint), "AudioEncoder", quantization, str(package)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        return child.stdout.read().decode()  # the end of stdin would ask it to stop


def test_the_same_weights_give_the_same_bytes(whole: Path, small_coreml: Path, tmp_path: Path) -> None:
    _encoder(whole, "int8", tmp_path)
    package = tmp_path / "AudioEncoder.mlpackage"
    for name in PACKAGE:
        assert (package / name).read_bytes() == (small_coreml / package.name / name).read_bytes(), name


def test_refused_before_a_byte_is_written(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "m_whisper-tiny"
    with pytest.raises(UsageError, match="no quantization 'q4_0'") as caught:
        write(copy, "q4_0", out, Reporter())
    assert caught.value.hint == "choose one of f16, int8, palette6"
    (copy / "generation_config.json").write_text('{"alignment_heads": [[0, 0], [1, 0]]}')
    with pytest.raises(CheckpointError, match=r"no alignment head \[1, 0\]"):
        write(copy, "f16", out, Reporter())
    for damage in ("[", "[]", '{"alignment_heads": [3]}', '{"alignment_heads": 3}'):
        (copy / "generation_config.json").write_text(damage)
        with pytest.raises(CheckpointError, match="unreadable"):
            write(copy, "f16", out, Reporter())
    (copy / "generation_config.json").unlink()
    (copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, which WhisperKit needs"):
        write(copy, "f16", out, Reporter())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[coreml\]"'):
        write(copy, "f16", out, Reporter())
    assert not out.parent.exists()


def test_too_little_room_is_said_beforehand(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters.coreml, "free_bytes", lambda folder: 1000)
    with pytest.raises(ExportError, match=r"needs 1\d MB, the disk has 0 MB free"):
        write(whole, "f16", tmp_path / "m_whisper-tiny", Reporter())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(whole: Path, tmp_path: Path) -> None:
    """The kernel refuses every write beyond 1 MB, as it does when the disk is full."""
    out = tmp_path / "m_whisper-tiny"
    out.mkdir()
    (out / "before").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ExportError, match="could not"):
            write(whole, "f16", out, Reporter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert _files(out) == {"before"}


def test_weights_that_are_not_numbers_are_named_by_the_child(copy: Path, tmp_path: Path) -> None:
    arrays = weights(dims(width=64))
    arrays["model.encoder.conv1.weight"][0, 0, 0] = np.nan
    save(copy / "model.safetensors", arrays)
    told = _encoder(copy, "f16", tmp_path)
    assert re.search(r"CheckpointError.*encoder\.conv1\.weight .* not numbers", told)
    assert not list(tmp_path.glob("*.mlpackage"))


def _at_first_progress(act: str) -> CallbackReporter:
    """A reporter that, at the first sign of life, asks to stop or kills the child."""

    def receive(message: Message) -> None:
        if message.kind == "progress":
            if act == "stop":
                reporter.stop.set()
            else:
                for child in psutil.Process().children():
                    child.kill()

    reporter = CallbackReporter(receive)
    return reporter


def test_stopping_and_killing_leave_nothing(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "m_whisper-tiny"
    with pytest.raises(JobStopped):
        write(whole, "f16", out, _at_first_progress("stop"))
    with pytest.raises(ExportError, match="MelSpectrogram could not be converted: its process ended with status -9"):
        write(whole, "f16", out, _at_first_progress("kill"))
    assert not list(tmp_path.iterdir())
    assert not psutil.Process().children()


def test_a_name_that_apps_do_not_list_is_said(whole: Path, tmp_path: Path) -> None:
    seen: list[Message] = []
    reporter = CallbackReporter(seen.append)
    reporter.stop.set()
    with pytest.raises(JobStopped):
        write(whole, "f16", tmp_path / "m_whisper-nano", reporter)
    assert [message.data["message"][:32] for message in seen] == ["m_whisper-nano: apps like Whispe"]


def test_on_a_mac_each_part_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stands in for Apple's tool: it finds itself, writes what it is asked for, and refuses decoders."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "xcrun"
    tool.write_text(
        '#!/bin/sh\n[ "$1" = --find ] && exit 0\ncase "$3" in *TextDecoder*) echo "no decoders" >&2; exit 1;; esac\n'
        'mkdir "$4/$(basename "$3" .mlpackage).mlmodelc"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setattr(sys, "platform", "darwin")
    folder = tmp_path / "m_whisper-tiny"
    folder.mkdir()
    with pytest.raises(ExportError, match="Apple's compiler refuses TextDecoder: no decoders"):
        exporters.coreml._compile(folder, Reporter())
    assert sorted(path.name for path in folder.iterdir()) == ["AudioEncoder.mlmodelc", "MelSpectrogram.mlmodelc"]
