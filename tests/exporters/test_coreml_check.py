"""The reader of WhisperKit folders against every lie that comes to mind, and random ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.coreml_check import check_coreml
from exporters.mlpackage import MANIFEST, MODEL, WEIGHTS
from idiolect.errors import ArtifactError
from idiolect.files import write_text
from tests.exporters.helpers import NEEDS_COREML

pytestmark = NEEDS_COREML


@pytest.fixture
def folder(small_coreml: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(small_coreml, tmp_path / small_coreml.name)


def _bytes(old: bytes, new: bytes, count: int = -1) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        assert len(old) == len(new)
        path.write_bytes(data.replace(old, new, count))

    return damage


def _cut(size_bytes: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - size_bytes)


def _keys(**changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    return damage


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: write_text(path, text)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _many(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(65 << 20)


_E, _D = "AudioEncoder.mlpackage", "TextDecoder.mlpackage"
_VERSION_8 = b"\x08\x08"  # the model's first field


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        (f"{_E}/{WEIGHTS}", Path.unlink, "weight.bin is missing"),
        (f"{_E}/{WEIGHTS}", _link, "weight.bin is a link"),
        (f"{_E}/{WEIGHTS}", _cut(1), "ends 1 bytes too early|ends too early"),
        (f"{_E}/{WEIGHTS}", _cut(10_000), "too early"),
        (f"{_E}/{WEIGHTS}", lambda path: os.truncate(path, 0), "ends too early"),
        (f"{_E}/{WEIGHTS}", _cut(-3), "holds 3 bytes too many"),
        (f"{_E}/{WEIGHTS}", _bytes(b"\xef\xbe\xad\xde", b"\xef\xbe\xad\xdf"), "there are no weights of"),
        (f"{_E}/{MODEL}", _cut(1), "ends too early"),
        (f"{_E}/{MODEL}", lambda path: os.truncate(path, 0), "field 2 is there 0 times"),
        (f"{_E}/{MODEL}", _many, "its program has 68157440 bytes"),
        (f"{_E}/{MODEL}", lambda path: path.write_bytes(_VERSION_8 + path.read_bytes()[2:]), "version 8, not 7"),
        (f"{_E}/{MODEL}", _text("lmgg"), "not a Core ML model"),
        (f"{_E}/{MODEL}", _text("\x0a" + "\x7f" * 20), "ends too early"),
        (f"{_E}/{MODEL}", _bytes(b"@model_path/weights/weight.bin", b"@model_path/../../../../passwd"), "lie in '@mo"),
        (f"{_E}/{MODEL}", _bytes(b"encoder_output_embeds", b"encoder_output_embedz"), "encoder_output_embedz"),
        (f"{_E}/{MODEL}", _bytes(b"layer_norm", b"layer_nope"), "0 layer norms, not 3"),
        (f"{_E}/{MODEL}", _bytes(b"\x04main", b"\x04maim"), "the functions maim, not main alone"),
        (f"{_E}/{MODEL}", _bytes(b"softmax_cast_fp16", b"softmax_cast_fp17", 1), "uses 'softmax_cast_fp16', which"),
        (f"{_E}/{MODEL}", _bytes(b"CoreML6", b"CoreMLX"), "written in CoreMLX, not CoreML6"),
        (f"{_D}/{MODEL}", _bytes(b"key_cache_updates", b"kex_cache_updates"), "Feature.*belongs"),
        (f"{_D}/{MODEL}", _bytes(b"constexpr_affine_dequantize", b"constexpr_affine_dequantizf"), "differently"),
        (f"{_E}/{MANIFEST}", _text("{}"), "Manifest.json names no model"),
        (f"{_E}/{MANIFEST}", _text("[" * 100_000), "cannot be used"),
        (f"{_E}/{MANIFEST}", _keys(rootModelIdentifier=["a"]), "Manifest.json names no model"),
        (f"{_E}/{MANIFEST}", _bytes(b"CoreML/model.mlmodel", b"CoreML/../../../../x"), "among"),
        ("config.json", Path.unlink, "config.json does not exist"),
        ("config.json", _keys(d_model=32, encoder_ffn_dim=128, decoder_ffn_dim=128), "32, 1, 1500.* belongs"),
        ("config.json", _keys(encoder_layers=2), "3 layer norms, not 5"),
        ("config.json", _keys(num_mel_bins=128), "1, 80, 1, 3000.* belongs"),
        ("config.json", _keys(vocab_size=51_866), "51865.* belongs|51866"),
        ("tokenizer.json", Path.unlink, "No such file"),
        ("tokenizer.json", _text("[]"), "no JSON object"),
        ("tokenizer.json", _text("{}"), "does not hold the 50257 text tokens"),
        ("tokenizer_config.json", _text("["), "cannot be used"),
        ("tokenizer_config.json", _keys(tokenizer_class="BertTokenizer"), "tokenizer_class is 'BertTokenizer', not"),
    ],
)  # fmt: skip
def test_lies_are_found(folder: Path, file: str, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder / file)
    with pytest.raises(ArtifactError, match=reason):
        check_coreml(folder)


def test_parts_of_another_model_and_none_at_all(folder: Path, nano_coreml: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / _D)
    with pytest.raises(ArtifactError, match=r"TextDecoder\.mlpackage cannot be used: Manifest\.json is missing"):
        check_coreml(folder)
    shutil.copytree(nano_coreml / _D, folder / _D)
    with pytest.raises(ArtifactError, match="belongs"):
        check_coreml(folder)
    with pytest.raises(ArtifactError, match="is not a folder"):
        check_coreml(tmp_path / "nothing")


@settings(max_examples=150)
@given(
    file=st.sampled_from(
        [f"{_E}/{MODEL}", f"{_D}/{MODEL}", f"{_E}/{MANIFEST}", "config.json", "tokenizer_config.json"]
    ),
    keep=st.floats(0, 1),
    at=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=0, max_size=8),
)
def test_any_damage_is_an_artifact_error_or_harmless(
    small_coreml: Path, folder: Path, file: str, keep: float, at: float, new: bytes
) -> None:
    data = bytearray((small_coreml / file).read_bytes())
    if keep < 0.5:
        del data[int(2 * keep * len(data)) :]
    place = int(at * len(data))
    data[place : place + len(new)] = new
    (folder / file).write_bytes(data)
    with contextlib.suppress(ArtifactError):
        check_coreml(folder)
