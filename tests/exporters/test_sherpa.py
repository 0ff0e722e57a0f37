"""Folders for sherpa-onnx: the graphs' numbers in onnxruntime, and what the package itself hears."""

from __future__ import annotations

import base64
import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from exporters import export_to
from exporters.checkpoint import open_checkpoint
from exporters.onnx_reader import check_onnx
from exporters.runtimes import SherpaOnnx, open_artifact
from idiolect.errors import MissingExtra, RuntimeFailed, UsageError
from idiolect.transcriber import DecodingOptions, Transcriber

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


@pytest.fixture(scope="module")
def fp32(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sherpa") / "fp32 – model"
    export_to(nano, "sherpa-onnx", "fp32", path)
    return path


@pytest.fixture(scope="module")
def clips(voices: Path) -> list[Pcm]:
    from training.audio import decode

    return [decode(voices / f"human/digits_{i:03}.ogg") for i in range(120, 128)]


@pytest.fixture
def model(fp32: Path) -> Transcriber:
    pytest.importorskip("sherpa_onnx", reason="needs the [sherpa] extra")
    return open_artifact(fp32, threads=1)


@pytest.mark.slow
def test_files(nano: Path, small: Path, tmp_path: Path, fp32: Path) -> None:
    assert sorted(path.name for path in fp32.iterdir()) == ["decoder.onnx", "encoder.onnx", "tokens.txt"]
    lines = (fp32 / "tokens.txt").read_text().splitlines()
    tokens = [base64.b64decode(line.split(" ")[0]) for line in lines]
    assert tuple(tokens) == open_checkpoint(nano).tokens[:50_257]
    first = export_to(small, "sherpa-onnx", "int8", tmp_path / "out")
    assert first == export_to(small, "sherpa-onnx", "int8", tmp_path / "out")
    with pytest.raises(UsageError, match="no quantization 'fp16'"):
        export_to(small, "sherpa-onnx", "fp16", tmp_path / "half")


@pytest.mark.torch
def test_the_graphs_compute_what_pytorch_does(nano: Path, fp32: Path) -> None:
    import torch

    from training.decode import encode, load_model

    tokens = [50258, 50259, 50359, 50363, 11, 500, 7]
    features = np.random.default_rng(0).standard_normal((1, 80, 501)).astype(np.float32)
    torch_model, _ = load_model(nano)
    with torch.inference_mode():
        hidden = encode(torch_model, torch.from_numpy(features))
        expected = torch_model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([tokens])).logits.numpy()
        keys = torch_model.model.decoder.layers[2].encoder_attn.k_proj(hidden).numpy()
    found, cross_keys = _logits(fp32, features, tokens)
    assert np.abs(cross_keys[2] - keys).max() < 2e-5
    assert np.abs(found - expected).max() < 1e-4


def _logits(folder: Path, features: Any, tokens: list[int]) -> tuple[Any, Any]:  # noqa: ANN401
    """Logits of `tokens`, four at once and then one by one as sherpa-onnx does, and the keys of all layers."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")
    info = check_onnx(folder)
    encoder, decoder = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (info.encoder, info.decoder)
    )
    cross = encoder.run(None, {"mel": features})
    cache = [np.zeros((info.dims.n_text_layer, 1, 448, info.dims.n_text_state), np.float32)] * 2
    names = [value.name for value in decoder.get_inputs()]
    found, done = [], 0
    for part in (tokens[:4], *([token] for token in tokens[4:])):
        values = [np.array([part]), *cache, *cross, np.array([done])]
        logits, *cache = decoder.run(None, dict(zip(names, values, strict=True)))
        found.append(logits)
        done += len(part)
    return np.concatenate(found, 1), cross[0]


@pytest.mark.torch
def test_sherpa_onnx_hears_what_the_checkpoint_hears(nano: Path, model: Transcriber, clips: list[Pcm]) -> None:
    """Not word for word: it makes its own features, and what follows the audio is louder than silence."""
    from training.decode import CheckpointTranscriber
    from training.scoring import error_rates

    checkpoint = CheckpointTranscriber(nano, threads=1)
    for options in (DecodingOptions(), DecodingOptions(audio_context="full"), DecodingOptions(timestamps=True)):
        expected = [checkpoint.transcribe(pcm, options).text for pcm in clips]
        heard = [answer.text for answer in model.transcribe_many(clips, options)]
        assert error_rates(expected, heard).wer < 0.15
        assert "<|" not in "".join(heard)
    model.close()


@pytest.mark.slow
def test_figures_and_refusals(model: Transcriber, clips: list[Pcm]) -> None:
    assert model.name == "fp32 – model"
    assert model.runtime.startswith("sherpa-onnx ")
    heard = model.transcribe(clips[0])
    assert heard.duration_s == len(clips[0]) / 16_000
    assert 0 < heard.compute_s < 60
    assert 50e6 < model.peak_memory_bytes() < 500e6
    for samples in (0, 1, 800, 480_001):
        assert model.transcribe(np.zeros(samples, np.float32)).duration_s == samples / 16_000
    with pytest.raises(UsageError, match="no language 'klingon'"):
        model.transcribe(clips[0], DecodingOptions(language="klingon"))
    model.close()


def test_an_end_in_the_runtime_is_a_failure(small_sherpa: Path, tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="needs the [sherpa] extra")
    folder = shutil.copytree(small_sherpa, tmp_path / "sherpa")
    (folder / "encoder.onnx").write_bytes((folder / "decoder.onnx").read_bytes())  # past the reader
    with pytest.raises(
        RuntimeFailed, match=r"sherpa-onnx (ended with exit status|was killed by) .* while loading sherpa"
    ):
        SherpaOnnx(folder, 51_865)


def test_without_the_package_the_install_command_is_shown(small_sherpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "idiolect\[sherpa\]"'):
        open_artifact(small_sherpa)
