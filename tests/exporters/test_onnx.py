"""Folders for transformers.js: what lies in them, all or nothing, and the same numbers as PyTorch."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exporters.plans
from exporters import export_to
from exporters.checkpoint import open_checkpoint
from exporters.layout import Dims
from exporters.onnx import SUFFIXES
from exporters.onnx_models import QUANTIZATIONS
from exporters.onnx_reader import TEXTS, check_onnx
from exporters.plans import FLOAT, INT8, Weight, weight_data
from idiolect.child import CallbackReporter, Message, Reporter
from idiolect.errors import ArtifactError, CheckpointError, ExportError, JobStopped, UsageError
from tests.exporters.helpers import SMALL, dims, make_checkpoint, save, weights

TOKENS = [[50258, 50259, 50359, 50363, 11, 500, 7], [50258, 50259, 50359, 50363, 3, 3, 50000]]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_files_and_their_names(small: Path, tmp_path: Path, quantization: str) -> None:
    seen: list[Message] = []
    files = export_to(small, "onnx", quantization, tmp_path / "out", CallbackReporter(seen.append))
    end = SUFFIXES[quantization] + ".onnx"
    models = [f"onnx/decoder_model_merged{end}", f"onnx/encoder_model{end}"]
    assert sorted(file.path for file in files) == sorted(f"out/{name}" for name in (*TEXTS, *models))
    assert check_onnx(tmp_path / "out").quantization == quantization
    size_bytes = sum(file.size_bytes for file in files if file.path.endswith(".onnx"))
    assert seen[-1].data == {"done": size_bytes, "total": size_bytes, "unit": "bytes"}
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_bytes())["nb_max_frames"] == 3000
    again = export_to(small, "onnx", quantization, tmp_path / "out")
    assert [file.sha256 for file in again] == [file.sha256 for file in files]


@pytest.mark.torch
def test_the_feature_extractor_is_whispers(nano: Path) -> None:
    from transformers import WhisperFeatureExtractor

    extractor: Any = WhisperFeatureExtractor
    expected = extractor().to_dict()
    written = json.loads(exporters.onnx.preprocessor_config(80))
    assert {key: expected[key] for key in written if key in expected} == {
        key: value for key, value in written.items() if key in expected
    }


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("part", ["encoder_model", "decoder_model_merged"])
def test_a_second_reader_finds_them_sound(small: Path, tmp_path: Path, quantization: str, part: str) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx package")
    export_to(small, "onnx", quantization, tmp_path / "out")
    path = tmp_path / "out" / "onnx" / f"{part}{SUFFIXES[quantization]}.onnx"
    onnx.checker.check_model(path, full_check=True)
    used = {node.op_type for node in onnx.load(path).graph.node}
    assert ("MatMulInteger" in used) == (quantization == "int8")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["fp32", "int8"])
def test_the_decoder_is_called_as_optimums(nano: Path, tmp_path: Path, quantization: str) -> None:
    # names, types and dimensions of decoder_model_merged.onnx as optimum-onnx 0.1.0 exports it from the same nano
    expected = json.loads(Path(__file__).with_name("optimum_decoder.json").read_bytes())
    export_to(nano, "onnx", quantization, tmp_path / "out")
    session = _session(check_onnx(tmp_path / "out").decoder)
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    found = {side: [[value.name, value.type, value.shape] for value in values] for side, values in sides.items()}
    assert found == expected


def test_int8_weights_are_rows_over_their_scales(small: Path) -> None:
    model, source = open_checkpoint(small), "decoder.layers.0.fc1.weight"
    expected = weights(SMALL)[f"model.{source}"]
    scales = weight_data(model, Weight("s", FLOAT, (128,), source, "scale"))
    values = weight_data(model, Weight("w", INT8, (32, 128), source, "int8"))
    assert (values.shape, scales.shape) == ((32, 128), (128,))
    assert values.dtype == np.int8
    assert (np.abs(values).max(0) == 127).all()
    assert (np.abs(values.T * scales[:, None] - expected) <= scales[:, None] * 0.5001).all()


def test_a_token_never_met_stays_zero(tmp_path: Path) -> None:
    folder, arrays, source = make_checkpoint(tmp_path / "model"), weights(SMALL), "decoder.embed_tokens.weight"
    arrays[f"model.{source}"][5] = 0
    save(folder / "model.safetensors", arrays)
    model = open_checkpoint(folder)
    values = weight_data(model, Weight("w", INT8, (32, 51_865), source, "int8"))
    assert (np.flatnonzero((values == 0).all(0)) == [5]).all()
    assert np.isfinite(weight_data(model, Weight("s", FLOAT, (51_865,), source, "scale"))).all()


def _torch_logits(folder: Path, features: Any, tokens: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Hidden states and logits of transformers' Whisper, for 3000 frames."""
    import torch
    from safetensors.torch import load_file
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig.from_pretrained(folder)
    model: Any = WhisperForConditionalGeneration(config)
    model.eval()
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()}, strict=False)
    with torch.inference_mode():
        hidden = model.model.encoder(torch.from_numpy(features)).last_hidden_state
        logits = model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor(tokens)).logits
    return hidden.numpy(), logits.numpy()


def _session(path: Path) -> Any:  # noqa: ANN401
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def _onnx_logits(folder: Path, found: Dims, hidden: Any, tokens: Any) -> Any:  # noqa: ANN401
    """Logits of the exported decoder: four tokens at once, the others one by one through the caches."""
    session = _session(check_onnx(folder).decoder)
    heads, size = found.n_text_head, found.n_text_state // found.n_text_head
    past = {
        value.name: np.zeros((len(tokens), heads, 0, size), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past")
    }
    logits: list[Any] = []
    array = np.array(tokens)
    for part in np.split(array, range(4, array.shape[1]), axis=1):
        first = not logits
        inputs = {"input_ids": part, "encoder_hidden_states": hidden, "use_cache_branch": np.array([not first])}
        made = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs | past), strict=True))
        logits.append(made.pop("logits"))
        for name, value in made.items():
            if first or "decoder" in name:
                past[name.replace("present", "past_key_values")] = value
    return np.concatenate(logits, 1)


@pytest.mark.torch
@pytest.mark.parametrize(("quantization", "hidden_off", "logits_off"), [("fp32", 2e-5, 1e-4), ("fp16", 0.02, 0.05)])
def test_nano_computes_what_pytorch_does(
    nano: Path, tmp_path: Path, quantization: str, hidden_off: float, logits_off: float
) -> None:
    features = np.random.default_rng(0).standard_normal((2, 80, 3000)).astype(np.float32)
    hidden, logits = _torch_logits(nano, features, TOKENS)
    export_to(nano, "onnx", quantization, tmp_path / "out")
    encoder = _session(check_onnx(tmp_path / "out").encoder)
    assert np.abs(encoder.run(None, {"input_features": features})[0] - hidden).max() < hidden_off
    found = _onnx_logits(tmp_path / "out", open_checkpoint(nano).dims, hidden, TOKENS)
    assert np.abs(found - logits).max() < logits_off


@pytest.mark.torch
def test_nano_in_int8_stays_near(nano: Path, tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((2, 80, 3000)).astype(np.float32)
    hidden, logits = _torch_logits(nano, features, TOKENS)
    export_to(nano, "onnx", "int8", tmp_path / "out")
    encoder = _session(check_onnx(tmp_path / "out").encoder)
    off = encoder.run(None, {"input_features": features})[0] - hidden
    assert 0 < np.sqrt(np.mean(off**2) / np.mean(hidden**2)) < 0.05
    off = _onnx_logits(tmp_path / "out", open_checkpoint(nano).dims, hidden, TOKENS) - logits
    assert 0 < np.sqrt(np.mean(off**2) / np.mean(logits**2)) < 0.05


@pytest.mark.torch
@pytest.mark.parametrize(
    "shape",
    [
        dims(n_vocab=51_864, n_audio_layer=2),
        dims(n_vocab=51_866, n_mels=128, n_text_layer=2),
        dims(width=48, n_audio_head=3, n_text_head=2),
    ],
    ids=["en", "large-v3", "heads"],
)
def test_every_shape_of_whisper(tmp_path: Path, shape: Dims) -> None:
    folder = make_checkpoint(tmp_path / "model", shape, pad_token_id=0, suppress_tokens=None)
    if shape.n_vocab == 51_866:
        (folder / "added_tokens.json").write_text('{"<|yue|>": 50358}')
    features = np.random.default_rng(0).standard_normal((2, shape.n_mels, 3000)).astype(np.float32)
    tokens = [[1, 2, 3, 4, 5, 6]] * 2
    hidden, logits = _torch_logits(folder, features, tokens)
    export_to(folder, "onnx", "fp32", tmp_path / "out")
    encoder = _session(check_onnx(tmp_path / "out").encoder)
    assert np.abs(encoder.run(None, {"input_features": features})[0] - hidden).max() < 2e-5
    assert np.abs(_onnx_logits(tmp_path / "out", shape, hidden, tokens) - logits).max() < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("frames", [2, 3, 101, 300, 2999])
def test_the_encoder_takes_any_number_of_frames(nano: Path, tmp_path: Path, frames: int) -> None:
    import torch

    from training.decode import encode, load_model

    export_to(nano, "onnx", "fp32", tmp_path / "out")
    features = np.random.default_rng(0).standard_normal((1, 80, frames)).astype(np.float32)
    with torch.inference_mode():
        expected = encode(load_model(nano)[0], torch.from_numpy(features)).numpy()
    (found,) = _session(check_onnx(tmp_path / "out").encoder).run(None, {"input_features": features})
    assert np.abs(found - expected).max() < 2e-5


def test_refused_before_a_byte_is_written(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "there" / "out"
    with pytest.raises(UsageError, match="no quantization 'q4'") as caught:
        export_to(small, "onnx", "q4", out)
    assert caught.value.hint == "choose one of fp32, fp16, int8"
    folder = shutil.copytree(small, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        export_to(folder, "onnx", "int8", out)
    assert not out.parent.exists()


def test_what_onnx_cannot_hold_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters.onnx, "MAX_FILE_BYTES", 2_000_000)
    with pytest.raises(CheckpointError, match=r"decoder_model_merged\.onnx would be 0\.0 GB") as caught:
        export_to(small, "onnx", "fp32", tmp_path / "out")
    assert caught.value.hint == "choose a smaller --quant"
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_said_beforehand(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters.plans, "free_bytes", lambda folder: 1000)
    with pytest.raises(ExportError, match="needs 3 MB, the disk has 0 MB free"):
        export_to(small, "onnx", "int8", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(small: Path, tmp_path: Path) -> None:
    """The kernel refuses every write beyond 1 MB, as it does when the disk is full."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model").write_bytes(b"the model before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ExportError, match="could not write"):
            export_to(small, "onnx", "int8", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["model"]


@pytest.mark.slow
def test_stopping_and_unsound_weights_leave_nothing(small: Path, tmp_path: Path) -> None:
    reporter = Reporter()
    reporter.stop.set()
    with pytest.raises(JobStopped):
        export_to(small, "onnx", "int8", tmp_path / "out", reporter)
    folder = make_checkpoint(tmp_path / "model")
    for value, error in ((np.nan, CheckpointError), (np.inf, CheckpointError), (70_000, CheckpointError)):
        arrays = weights(SMALL)
        arrays["model.decoder.layers.0.fc2.weight"][3, 3] = value
        save(folder / "model.safetensors", arrays)
        with pytest.raises(error, match=r"decoder\.layers\.0\.fc2\.weight"):
            export_to(folder, "onnx", "int8", tmp_path / "out")
    arrays = weights(SMALL)
    arrays["model.encoder.layers.0.fc1.weight"][:] = 0
    save(folder / "model.safetensors", arrays)
    with pytest.raises(ArtifactError, match=r"encoder\.layers\.0\.fc1\.weight is all zeros"):
        export_to(folder, "onnx", "fp32", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
