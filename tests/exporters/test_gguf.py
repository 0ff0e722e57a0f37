"""GGUF for transcribe.cpp: read back by gguf's own reader, the same blocks as in ggml, heard in transcribe.cpp."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import export_file
from exporters.checkpoint import read_dims
from exporters.gguf_file import check_gguf, layout
from exporters.layout import F32, QUANTIZATIONS, tensors
from exporters.runtimes import TranscribeCpp, open_artifact
from idiolect.errors import ArtifactError, CheckpointError, ExportError, MissingExtra, RuntimeFailed, UsageError
from idiolect.transcriber import DecodingOptions
from tests.exporters.helpers import SMALL, dims, make_checkpoint, read_tensors

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

FULL = DecodingOptions(audio_context="full")
SIZES = {q.type_code: (q.block, q.block_bytes) for q in (F32, *QUANTIZATIONS.values())}


@pytest.fixture(scope="module")
def clips(voices: Path) -> list[Pcm]:
    from training.audio import decode

    # the second and third are heard otherwise with transcribe.cpp's own choice, a cache of float16
    names = ("human/digits_120", "human/digits_107", "synthetic/clip053", "human/digits_121")
    return [decode(voices / f"{name}.ogg") for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f32", "f16", "q4_1", "q5_0"])  # reading 51,865 tokens back takes two seconds
def test_gguf_reads_the_blocks_that_stand_in_ggml(small: Path, tmp_path: Path, name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    export_file(small, "gguf", name, tmp_path / "m.gguf")
    export_file(small, "ggml", name, tmp_path / "m.bin")
    assert check_gguf(tmp_path / "m.gguf").quantization == name
    old = read_tensors(tmp_path / "m.bin", SIZES)
    new = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    expected = layout(SMALL, QUANTIZATIONS[name])
    assert new.keys() == {tensor.name for tensor in expected}
    sources = {tensor.source: tensor.name for tensor in tensors(SMALL)}
    for tensor in expected:
        found = new[tensor.name]
        assert tuple(map(int, found.shape)) == tensor.shape[::-1]
        if tensor.source:
            kind, _, data = old[sources[tensor.source]]
            assert (int(found.tensor_type), found.data.tobytes()) == (kind, data), tensor.name


@pytest.mark.slow
def test_keys_filters_and_window(nano: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    export_file(nano, "gguf", "q8_0", tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")

    def value(key: str) -> Any:  # noqa: ANN401
        return reader.fields[key].contents()

    assert value("general.architecture") == "whisper"
    assert (value("general.file_type"), value("stt.whisper.decoder.vocab_size")) == (7, 51_865)
    assert value("tokenizer.ggml.tokens")[50_257:50_260] == ["<|endoftext|>", "<|startoftranscript|>", "<|en|>"]
    merges = json.loads((nano / "tokenizer.json").read_text())["model"]["merges"]
    assert value("tokenizer.ggml.merges") == [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    assert value("stt.whisper.begin_suppress_tokens") == [220, 50_257]
    arrays = {tensor.name: tensor.data for tensor in reader.tensors}
    assert arrays["frontend.window"][200] == 1
    assert arrays["frontend.window"][0] == 0
    assert arrays["frontend.mel_filterbank"].shape == (80, 201)


def test_the_same_checkpoint_gives_the_same_bytes(small: Path, small_gguf: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(small, tmp_path / "another name")
    export_file(moved, "gguf", "q4_0", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == small_gguf.read_bytes()


def test_no_further_token_is_no_token(small: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small, tmp_path / "model")
    (model / "generation_config.json").write_text('{"suppress_tokens": [-1], "begin_suppress_tokens": [220, -1]}')
    export_file(model, "gguf", "q4_0", tmp_path / "m.gguf")
    metadata = check_gguf(tmp_path / "m.gguf").metadata
    assert "stt.whisper.suppress_tokens" not in metadata
    assert metadata["stt.whisper.begin_suppress_tokens"] == [220]


@pytest.mark.slow
@pytest.mark.parametrize(("n_vocab", "n_mels"), [(51_864, 80), (51_866, 128)])
def test_other_vocabularies(tmp_path: Path, n_vocab: int, n_mels: int) -> None:
    made = make_checkpoint(tmp_path / "other", dims(n_vocab=n_vocab, n_mels=n_mels, n_text_layer=2))
    (made / "added_tokens.json").write_text('{"<|yue|>": 50358}')
    export_file(made, "gguf", "f16", tmp_path / "m.gguf")
    info = check_gguf(tmp_path / "m.gguf")
    assert info.dims == read_dims(made)
    assert info.metadata["stt.capability.translate"] == (n_vocab > 51_864)
    assert info.metadata["tokenizer.ggml.tokens"][-1] == "<|30.00|>"


@pytest.mark.torch
def test_transcribe_cpp_hears_what_the_checkpoint_hears(nano: Path, tmp_path: Path, clips: list[Pcm]) -> None:
    pytest.importorskip("transcribe_cpp", reason="needs the [gguf] extra")
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    expected = [CheckpointTranscriber(nano, threads=1).transcribe(pcm, FULL).text for pcm in clips]
    for name, options, limit in (
        ("f16", FULL, 0.0),
        ("q5_0", FULL, 0.2),
        ("f16", DecodingOptions(timestamps=True), 0.2),
    ):
        export_file(nano, "gguf", name, tmp_path / f"{name}.gguf")
        model = open_artifact(tmp_path / f"{name}.gguf", threads=1)
        heard = [answer.text for answer in model.transcribe_many(clips, options)]
        assert error_rates(expected, heard).wer <= limit
        assert model.runtime.startswith("transcribe.cpp ")
        assert 30e6 < model.peak_memory_bytes() < 500e6
        assert model.transcribe(np.zeros(1, np.float32)).duration_s == 1 / 16_000
        with pytest.raises(UsageError, match="no language 'klingon'"):
            model.transcribe(clips[0], DecodingOptions(language="klingon"))
        model.close()


def test_an_end_in_the_runtime_is_a_failure(small_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("transcribe_cpp", reason="needs the [gguf] extra")
    (tmp_path / "cut.gguf").write_bytes(small_gguf.read_bytes()[:5000])  # past the reader
    with pytest.raises(RuntimeFailed, match=r"transcribe\.cpp (ended with|was killed by) .* while loading cut\.gguf"):
        TranscribeCpp(tmp_path / "cut.gguf", 51_865)


def test_without_the_package_the_install_command_is_shown(small_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[gguf\]"'):
        open_artifact(small_gguf)


def test_what_cannot_be_made_is_refused_before_a_byte_is_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = make_checkpoint(tmp_path / "odd", dims(width=40))
    with pytest.raises(CheckpointError, match="blocks of 32"):
        export_file(odd, "gguf", "q4_0", tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="GGUF has no quantization 'q4_k'"):
        export_file(small, "gguf", "q4_k", tmp_path / "m.gguf")
    monkeypatch.setattr("exporters.ggml.free_bytes", lambda folder: 1000)
    with pytest.raises(ExportError, match="MB free"):
        export_file(small, "gguf", "q4_0", tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"GGUF", "ends too early"),
        (lambda data: data[:-1], "bytes, not"),
        (lambda data: data + bytes(32), "bytes, not"),
        (lambda data: data[:4] + struct.pack("<I", 2) + data[8:], "version 2"),
        (lambda data: data[:8] + struct.pack("<Q", 1) + data[16:], "it has 1 tensors"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:], "keys"),
        (lambda data: data[:24] + struct.pack("<Q", 1 << 60) + data[32:], "claims a text of"),
        (lambda data: data.replace(b"enc.final_norm.bias", b"enc.final_norm.bios"), "is unknown or there twice"),
        (lambda data: data.replace(b"stt.variant", b"stt.variamt"), "no Whisper for transcribe.cpp"),
        (lambda data: data.replace(b"n_fft\x04", b"n_fft\x05"), "value of type 5"),
        (lambda data: data.replace(b"n_fft\x04\0\0\0\x90\1", b"n_fft\x04\0\0\0\0\0"), r"n_fft is 0, not 400"),
        (lambda data: data.replace(b"stt.frontend.f_min", b"stt.frontend.dither"[:18]), "stt.frontend"),
        (lambda data: data[: len(data) - 40_000] + bytes(40_000), "is all zeros"),
    ],
)
def test_damage_is_refused(small_gguf: Path, tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    (tmp_path / "m.gguf").write_bytes(damage(small_gguf.read_bytes()))
    with pytest.raises(ArtifactError, match=reason):
        open_artifact(tmp_path / "m.gguf")


@pytest.mark.slow
@settings(max_examples=80)
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=12))
def test_a_damaged_head_raises_nothing_else(small_gguf: Path, tmp_path: Path, at: int, junk: bytes) -> None:
    """Wherever the damage, the answer is an ArtifactError or a file whose structure is sound."""
    data = small_gguf.read_bytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(data[:at] + junk + data[at + len(junk) :])
    with contextlib.suppress(ArtifactError):
        assert check_gguf(path).size_bytes == len(data)
