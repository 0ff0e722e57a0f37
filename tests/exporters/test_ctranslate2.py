"""Folders for faster-whisper: byte for byte what CTranslate2's own converter writes, heard in faster-whisper itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import export_to
from exporters.checkpoint import open_checkpoint, read_dims
from exporters.ctranslate2_file import QUANTIZATIONS, check_ctranslate2, plan
from exporters.plans import FLOAT, INT8, Weight, weight_data
from exporters.runtimes import FasterWhisper, open_artifact
from idiolect.errors import ArtifactError, CheckpointError, MissingExtra, RuntimeFailed, UsageError
from idiolect.transcriber import DecodingOptions, Transcriber
from tests.exporters.helpers import SMALL, config, dims, make_checkpoint, save, weights

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

CONVERT = """
import sys
from ctranslate2.converters import TransformersConverter
for quantization in ("float32", "float16", "int8_float32"):
    TransformersConverter(sys.argv[1]).convert(f"{sys.argv[2]}/{quantization}", quantization=quantization)
"""
FULL = DecodingOptions(audio_context="full")


@pytest.fixture(scope="module")
def folders(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano in every quantization, in folders of their names."""
    place = tmp_path_factory.mktemp("ct2")
    for quantization in QUANTIZATIONS:
        export_to(nano, "ctranslate2", quantization, place / quantization)
    return place


@pytest.fixture
def int8(folders: Path) -> Transcriber:
    pytest.importorskip("faster_whisper", reason="needs the [ct2] extra")
    return open_artifact(folders / "int8", threads=1)


@pytest.fixture
def copied(small_ctranslate2: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_ctranslate2, tmp_path / "ct2-folder")


@pytest.fixture(scope="module")
def clips(voices: Path) -> list[Pcm]:
    from training.audio import decode

    return [decode(voices / f"human/digits_{i:03}.ogg") for i in range(120, 128)]


@pytest.mark.torch
def test_the_model_is_what_ctranslate2s_converter_writes(nano: Path, folders: Path, tmp_path: Path) -> None:
    for package in ("ctranslate2", "transformers"):
        pytest.importorskip(package, reason="needs the [ct2] and [train] extras")
    subprocess.run([sys.executable, "-c", CONVERT, nano, tmp_path], check=True, capture_output=True)
    for theirs, ours in (("float32", "float32"), ("float16", "float16"), ("int8_float32", "int8")):
        assert (tmp_path / theirs / "model.bin").read_bytes() == (folders / ours / "model.bin").read_bytes(), ours
        for name in ("config.json", "vocabulary.json"):
            assert json.loads((tmp_path / theirs / name).read_bytes()) == json.loads(
                (folders / ours / name).read_bytes()
            )


@pytest.mark.slow
def test_files_are_the_same_each_time(small: Path, small_ctranslate2: Path, tmp_path: Path) -> None:
    export_to(small, "ctranslate2", "int8", tmp_path / "again")
    names = ["config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"]
    assert sorted(path.name for path in small_ctranslate2.iterdir()) == names
    assert all((tmp_path / "again" / name).read_bytes() == (small_ctranslate2 / name).read_bytes() for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("n_vocab", "n_mels"), [(51_864, 80), (51_866, 128)])
def test_other_vocabularies(tmp_path: Path, n_vocab: int, n_mels: int) -> None:
    made = make_checkpoint(tmp_path / "other", dims(n_vocab=n_vocab, n_mels=n_mels, n_audio_layer=2, n_text_layer=11))
    tokenizer = json.loads((made / "tokenizer.json").read_text()) | {"added_tokens": [{"content": "<|yue|>"}]}
    (made / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")))
    export_to(made, "ctranslate2", "float16", tmp_path / "out")
    info = check_ctranslate2(tmp_path / "out")
    assert (info.dims, info.quantization) == (read_dims(made), "float16")
    words = json.loads((tmp_path / "out" / "vocabulary.json").read_bytes())
    assert words[-1] == "<|30.00|>"
    assert words[50_257 if n_vocab > 51_864 else 50_256] == "<|endoftext|>"


def test_rows_are_multiplied_and_rounded(tmp_path: Path) -> None:
    """By 127 over the row's largest; rows of zeros and rows too small for a factor in float32 stay finite."""
    values = weights(SMALL)
    source = "decoder.layers.0.fc1.weight"
    values[f"model.{source}"][0] = 0
    values[f"model.{source}"][1] = 1e-38
    folder = make_checkpoint(tmp_path / "model")
    save(folder / "model.safetensors", values)
    model = open_checkpoint(folder)
    factors = weight_data(model, Weight("f", FLOAT, (128, 1), source, "factor"))
    codes = weight_data(model, Weight("w", INT8, (128, 32), source, "int8-rows"))
    assert factors[0] == 1
    assert not codes[0].any()
    assert np.isfinite(factors).all()
    assert (np.abs(codes[2:].astype(int)).max(1) == 127).all()
    assert np.abs(codes[2:] / factors[2:] - values[f"model.{source}"][2:]).max() <= 0.5 / factors[2:].min() * 1.001


@pytest.mark.torch
def test_faster_whisper_hears_what_the_checkpoint_hears(nano: Path, int8: Transcriber, clips: list[Pcm]) -> None:
    """Not word for word: it pads features with zeros, which are louder than silence."""
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    expected = [CheckpointTranscriber(nano, threads=1).transcribe(pcm, FULL).text for pcm in clips]
    timed = DecodingOptions(audio_context="full", timestamps=True)
    for options in (FULL, timed):
        heard = [answer.text for answer in int8.transcribe_many(clips, options)]
        assert error_rates(expected, heard).wer < 0.15
        assert "<|" not in "".join(heard)
    int8.close()


@pytest.mark.slow
def test_figures_and_refusals(int8: Transcriber, clips: list[Pcm]) -> None:
    assert int8.name == "int8"
    assert int8.runtime.startswith("faster-whisper ")
    heard = int8.transcribe(clips[0], FULL)
    assert heard.duration_s == len(clips[0]) / 16_000
    assert 0 < heard.compute_s < 60
    assert 50e6 < int8.peak_memory_bytes() < 800e6
    for samples in (0, 1, 800, 480_001):
        assert int8.transcribe(np.zeros(samples, np.float32)).duration_s == samples / 16_000
    with pytest.raises(UsageError, match="no language 'klingon'"):
        int8.transcribe(clips[0], DecodingOptions(language="klingon"))
    int8.close()


@pytest.mark.slow
def test_an_end_in_the_runtime_is_a_failure(copied: Path) -> None:
    pytest.importorskip("faster_whisper", reason="needs the [ct2] extra")
    (copied / "model.bin").write_bytes((copied / "model.bin").read_bytes()[:5000])  # past the reader
    with pytest.raises(RuntimeFailed, match=r"faster-whisper (ended with|was killed by) .* while loading ct2-folder"):
        FasterWhisper(copied, 51_865)


def test_without_the_package_the_install_command_is_shown(
    small_ctranslate2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[ct2\]"'):
        open_artifact(small_ctranslate2)


def test_what_cannot_be_made_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="no quantization 'q4_0'"):
        export_to(folder, "ctranslate2", "q4_0", tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        export_to(folder, "ctranslate2", "int8", tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(config(SMALL) | {"vocab_size": 51_867}))
    with pytest.raises(CheckpointError, match="vocabulary 51867"):
        export_to(folder, "ctranslate2", "int8", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "no Whisper of CTranslate2"),
        (lambda data: b"lmgg" + data[4:], "no Whisper of CTranslate2"),
        (lambda data: data[:-1], "bytes, not"),
        (lambda data: data + b"\0", "bytes, not"),
        (lambda data: data[: len(data) // 2], "ends before"),
        (lambda data: data[:22] + b"\xff\xff\xff\xff" + data[26:], "claims 4294967295 variables"),
        (lambda data: data.replace(b"encoder/num_heads", b"encoder/num_hands"), "it lacks 'encoder'"),
        (lambda data: data.replace(b"decoder/activation", b"decoder/activatiom"), "structure is not what"),
    ],
)
def test_damage_is_refused(copied: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = copied / "model.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match=reason):
        open_artifact(copied)


def test_a_tokenizer_without_the_tokens_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="does not hold the 50257 text tokens"):
        open_artifact(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "vocabulary.json"])
def test_damaged_texts_are_refused(copied: Path, name: str) -> None:
    (copied / name).write_text('"text"')
    with pytest.raises(ArtifactError, match=f"{name} cannot be used"):
        check_ctranslate2(copied)
    (copied / name).unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        check_ctranslate2(copied)


def test_all_zeros_are_refused(copied: Path) -> None:
    path, at = copied / "model.bin", 0
    data = bytearray(path.read_bytes())
    for piece in plan(SMALL, "int8"):
        size_bytes = piece.size_bytes if isinstance(piece, Weight) else len(piece)
        if isinstance(piece, Weight) and piece.name == "decoder/embeddings/weight":
            data[at : at + size_bytes] = bytes(size_bytes)
        at += size_bytes
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="decoder/embeddings/weight is all zeros"):
        check_ctranslate2(copied)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_any_change_outside_the_weights_is_refused(copied: Path, data: st.DataObject) -> None:
    sound, path = (copied / "model.bin").read_bytes(), copied / "model.bin"
    spans, at = [], 0
    for piece in plan(SMALL, "int8"):
        if isinstance(piece, bytes) and piece.strip(b"\0"):
            spans.append((at, at + len(piece)))
        at += len(piece) if isinstance(piece, bytes) else piece.size_bytes
    start, end = data.draw(st.sampled_from(spans))
    place, flip = data.draw(st.integers(start, end - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :])
    try:
        with pytest.raises(ArtifactError):
            check_ctranslate2(copied)
    finally:
        path.write_bytes(sound)
