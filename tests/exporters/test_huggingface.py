"""The plain folder: transformers loads it as it is, its bytes are the checkpoint's, damage is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporters import export_to
from exporters.checkpoint import open_checkpoint, read_dims
from exporters.huggingface import check_huggingface
from exporters.kinds import find_kind, kind_of
from exporters.runtimes import open_artifact
from idiolect.errors import ArtifactError, CheckpointError, UsageError
from idiolect.transcriber import DecodingOptions
from tests.exporters.helpers import SMALL, make_checkpoint, save, weights


@pytest.fixture(scope="module")
def folder(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint in float16, read only."""
    path = tmp_path_factory.mktemp("exported") / "idiolect-small"
    export_to(small, "huggingface", "float16", path)
    return path


@pytest.mark.slow
def test_the_weights_are_the_checkpoints(small: Path, folder: Path, tmp_path: Path) -> None:
    export_to(small, "huggingface", "float32", tmp_path / "full")
    before, half, full = (open_checkpoint(path).tensors for path in (small, folder, tmp_path / "full"))
    assert before.keys() == half.keys() == full.keys()
    for name, stored in before.items():
        (values,), (rounded,), (same,) = (list(each[name].exact_chunks(1 << 30)) for each in (before, half, full))
        assert stored.shape == half[name].shape
        assert (same == values).all()
        assert (rounded == values.astype(np.float16)).all()
    told = json.loads((folder / "config.json").read_text())
    assert (told["torch_dtype"], told["dtype"]) == ("float16", "float16")
    assert kind_of(folder).name == "huggingface"
    assert find_kind(folder) is None  # a model's folder as well


def test_the_card_comes_along(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "model")
    (tmp_path / "model/README.md").write_text("# Whisper, taught one voice\n")
    for name in ("out", "again"):
        export_to(tmp_path / "model", "huggingface", "float16", tmp_path / name)
    assert (tmp_path / "out/README.md").read_text() == "# Whisper, taught one voice\n"
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_what_cannot_be_made_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no quantization 'int4'"):
        export_to(small, "huggingface", "int4", tmp_path / "out")
    large = make_checkpoint(tmp_path / "large")
    values = weights(SMALL)
    values["model.decoder.layer_norm.weight"][0] = 1e6
    save(large / "model.safetensors", values)
    with pytest.raises(CheckpointError):
        export_to(large, "huggingface", "float16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("model.safetensors", lambda data: data[:-1], "bytes, not"),
        ("model.safetensors", lambda data: data + b"\0", "bytes, not"),
        ("model.safetensors", lambda data: data.replace(b"conv1.bias", b"conv1.bios"), "its structure"),
        ("model.safetensors", lambda data: data[:8] + bytes(len(data) - 8), "its structure"),
        ("model.safetensors", lambda data: data[:20_000] + bytes(len(data) - 20_000), "all zeros"),
        ("config.json", lambda data: data.replace(b"32", b"64"), "ffn_dim is 128"),
        ("config.json", lambda data: b"{", "cannot be used"),
        ("config.json", lambda data: b"[" * 100_000, "is not JSON"),
        ("tokenizer.json", lambda data: b"", "cannot be used"),
        ("tokenizer.json", lambda data: b"{}", "does not hold the 50257 text tokens"),
    ],
)
def test_damage_is_refused(
    folder: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ArtifactError, match=reason):
        check_huggingface(tmp_path / "m")


@pytest.mark.torch
def test_transformers_hears_what_the_checkpoint_hears(nano: Path, voices: Path, tmp_path: Path) -> None:
    from training.audio import decode
    from training.decode import CheckpointTranscriber

    export_to(nano, "huggingface", "float16", tmp_path / "idiolect-nano")
    assert check_huggingface(tmp_path / "idiolect-nano").dims == read_dims(nano)
    options = DecodingOptions(audio_context="full")
    clips = [decode(voices / f"human/digits_{i:03}.ogg") for i in (120, 121)]
    expected = [CheckpointTranscriber(nano, threads=1).transcribe(pcm, options).text for pcm in clips]
    model = open_artifact(tmp_path / "idiolect-nano", threads=1)
    assert [answer.text for answer in model.transcribe_many(clips, options)] == expected
    assert model.runtime.startswith("transformers ")
    assert model.transcribe(clips[0], DecodingOptions(timestamps=True)).text
    model.close()
