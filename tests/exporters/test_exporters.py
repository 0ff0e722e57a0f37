"""From a checkpoint and a profile to a folder with one file in it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import device_profiles
from exporters import FORMATS, Checked, export, export_file
from exporters.ctranslate2_file import QUANTIZATIONS as CT2_QUANTIZATIONS
from exporters.huggingface import QUANTIZATIONS as HF_QUANTIZATIONS
from exporters.kinds import imported, kind_of
from exporters.layout import QUANTIZATIONS
from exporters.onnx_models import QUANTIZATIONS as ONNX_QUANTIZATIONS
from exporters.readers import check_ggml
from exporters.sherpa import QUANTIZATIONS as SHERPA_QUANTIZATIONS
from idiolect.errors import CheckpointError, RuntimeFailed, UsageError
from tests.exporters.helpers import make_checkpoint


def test_profiles_and_exporters_know_the_same_formats() -> None:
    assert set(FORMATS) == set(device_profiles.FORMATS)
    assert tuple(QUANTIZATIONS) == device_profiles.FORMATS["ggml"]
    assert device_profiles.FORMATS["gguf"] == device_profiles.FORMATS["ggml"]
    assert device_profiles.FORMATS["onnx"] == ONNX_QUANTIZATIONS
    assert device_profiles.FORMATS["sherpa-onnx"] == SHERPA_QUANTIZATIONS
    assert device_profiles.FORMATS["ctranslate2"] == tuple(CT2_QUANTIZATIONS)
    assert device_profiles.FORMATS["huggingface"] == tuple(HF_QUANTIZATIONS)


def test_export_writes_the_profiles_file(small: Path, tmp_path: Path) -> None:
    profile = device_profiles.load(overrides={"android-futo": {"tier": "nano"}})["android-futo"]
    heard = Checked("whisper.cpp 1.8.5", {"wer": 0.1, "speed_x": 31.0}, ("speed on a phone",))

    def check(path: Path) -> Checked:
        assert check_ggml(path).quantization == "q4_0"
        assert not (tmp_path / "out").exists()  # nobody takes it for checked before it is
        return heard

    done = export(small, profile, tmp_path / "out", check=check)
    path = tmp_path / "out" / "idiolect-nano-q4_0.bin"
    assert list((tmp_path / "out").iterdir()) == [path]
    assert (done.profile, done.format, done.quantization, done.folder) == ("android-futo", "ggml", "q4_0", path.parent)
    (file,) = done.files
    assert (file.path, file.size_bytes, file.magic) == (path.name, path.stat().st_size, "6c6d6767")
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert done.checked == heard


@pytest.mark.whispercpp
@pytest.mark.slow
def test_export_loads_the_file_in_its_runtime(nano: Path, tmp_path: Path) -> None:
    done = export(nano, device_profiles.load()["desktop-whispercpp"], tmp_path / "out")
    assert done.checked.runtime.startswith("whisper.cpp ")
    assert done.checked.numbers["load_s"] > 0
    assert done.checked.not_checked == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime", "package"),
    [
        ("browser-onnx", "onnxruntime ", "onnxruntime"),
        ("android-sherpa", "sherpa-onnx ", "sherpa_onnx"),
        ("desktop-faster-whisper", "faster-whisper ", "faster_whisper"),
    ],
)
def test_export_writes_the_profiles_folder(whole: Path, tmp_path: Path, name: str, runtime: str, package: str) -> None:
    pytest.importorskip(package)
    profile = device_profiles.load(overrides={name: {"tier": "nano"}})[name]
    done = export(whole, profile, tmp_path / "out")
    assert done.checked.runtime.startswith(runtime)
    assert done.path == tmp_path / "out" / profile.artifact_name()
    assert imported(kind_of(done.path).check)(done.path).quantization == "int8"
    there = {path.relative_to(tmp_path / "out").as_posix() for path in done.path.rglob("*.*")}
    assert {file.path for file in done.files} == there
    for file in done.files:
        content = (tmp_path / "out" / file.path).read_bytes()
        assert (file.size_bytes, file.magic) == (len(content), content[:4].hex())
        assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_a_failed_export_keeps_the_folder_that_was_there(small: Path, tmp_path: Path) -> None:
    def refuse(path: Path) -> Checked:
        raise RuntimeFailed(f"whisper.cpp refuses {path.name}")

    profile = device_profiles.load()["desktop-whispercpp"]
    export(small, profile, tmp_path / "out", check=lambda path: Checked("", {}))
    before = (tmp_path / "out" / "idiolect-small-q5_0.bin").read_bytes()
    broken = make_checkpoint(tmp_path / "broken", d_model=40)
    with pytest.raises(CheckpointError):
        export(broken, profile, tmp_path / "out")
    with pytest.raises(RuntimeFailed):
        export(small, profile, tmp_path / "out", check=refuse)
    assert (tmp_path / "out" / "idiolect-small-q5_0.bin").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out"]


def test_the_same_checkpoint_gives_the_same_bytes(small: Path, small_file: Path, tmp_path: Path) -> None:
    export_file(small, "ggml", "q4_0", tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == small_file.read_bytes()


def test_an_unknown_format_lists_what_exists(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no exporter for the format 'tflite'") as caught:
        export_file(small, "tflite", "q4_0", tmp_path / "m.tflite")
    assert caught.value.hint == f"choose one of {', '.join(FORMATS)}"


def test_light_modules_stay_light() -> None:
    """The resident process may look into an artifact without numpy."""
    modules = (
        "checkpoint",
        "readers",
        "runtimes",
        "ggml",
        "kinds",
        "onnx",
        "onnx_reader",
        "sherpa",
        "ctranslate2",
        "huggingface",
        "apart",
        "gguf",
    )
    code = (
        f"import sys, exporters.{', exporters.'.join(modules)};"
        "heavy = {'numpy', 'torch', 'transformers', 'safetensors', 'onnx', 'onnxruntime', 'ctranslate2'};"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True).stderr.strip() == ""
