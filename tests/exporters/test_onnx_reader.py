"""Damaged ONNX folders never reach a native runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import export_to
from exporters.checkpoint import read_dims
from exporters.onnx_models import PARTS, plan
from exporters.onnx_reader import TEXTS, check_model, check_onnx
from exporters.plans import Weight
from exporters.runtimes import open_artifact
from idiolect.errors import ArtifactError
from tests.exporters.helpers import SMALL, dims, make_checkpoint

DECODER = "onnx/decoder_model_merged_quantized.onnx"
ENCODER = "onnx/encoder_model_quantized.onnx"


@pytest.fixture
def copied(small_onnx: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_onnx, tmp_path / "onnx-folder")


@pytest.mark.slow
def test_sound_folders(small: Path, small_onnx: Path, small_sherpa: Path) -> None:
    for folder in (small_onnx, small_sherpa):
        info = check_onnx(folder)
        assert info.dims == SMALL == read_dims(small)
        assert info.quantization == "int8"
        assert info.encoder.is_file()
        assert info.decoder.is_file()


@pytest.mark.slow
def test_dimensions_tell_the_tier(nano: Path, tmp_path: Path) -> None:
    for format, quantization in (("onnx", "fp16"), ("sherpa-onnx", "fp32")):
        export_to(nano, format, quantization, tmp_path / format)
        assert check_onnx(tmp_path / format).dims == read_dims(nano)


def _weight_bytes(part: str) -> list[tuple[int, int]]:
    """Where weights lie in a file of the small model."""
    found, at = [], 0
    for piece in plan(part, SMALL, "int8"):
        size_bytes = piece.size_bytes if isinstance(piece, Weight) else len(piece)
        if isinstance(piece, Weight):
            found.append((at, at + size_bytes))
        at += size_bytes
    return found


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "there is no graph"),
        (lambda data: b"GGUF" + data[4:], "wire type|not exported|does not end|no graph"),
        (lambda data: b"\x08\x08", "there is no graph"),
        (lambda data: data[:-1], r"has \d+ bytes, not \d+"),
        (lambda data: data + b"\0", r"has \d+ bytes, not \d+"),
        (lambda data: data.replace(b"51865,1500,32,", b"51867,1500,32,"), "vocabulary 51867"),
        (lambda data: data.replace(b"51865,1500,32,", b"51865,1500,-3,"), "dimensions are not numbers"),
        (lambda data: data.replace(b"51865,1500,32,", b"51864,1500,32,"), r"has \d+ bytes, not \d+"),
        (lambda data: data.replace(b"int8", b"int7"), "not exported by idiolect"),
        (lambda data: data.replace(b"MatMulInteger", b"MatMulIntegre", 1), "not what this version writes"),
        (lambda data: data.replace(b"input_ids", b"input_idz"), "not what this version writes"),
        (lambda data: data[:-8] + bytes(8), None),
    ],
)
def test_lies_are_found(copied: Path, damage: Callable[[bytes], bytes], reason: str | None) -> None:
    path = copied / DECODER
    path.write_bytes(damage(path.read_bytes()))
    if reason is None:
        check_onnx(copied)  # inside a weight: the digest's business
        return
    with pytest.raises(ArtifactError, match=reason) as caught:
        check_onnx(copied)
    assert "export or pull it again" in caught.value.hint
    with pytest.raises(ArtifactError):
        open_artifact(copied)


def test_a_tokenizer_without_the_tokens_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(ArtifactError, match="does not hold the 50257 text tokens"):
        open_artifact(copied)


def test_zeroed_weights_are_found(copied: Path) -> None:
    path = copied / ENCODER
    start, end = next(span for span in _weight_bytes("encoder") if span[1] - span[0] == 32 * 128)
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(ArtifactError, match=r"fc1\.weight is all zeros"):
        check_onnx(copied)


def test_models_that_do_not_belong_together(copied: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "model", dims(n_text_layer=2))
    export_to(other, "onnx", "int8", tmp_path / "other")
    shutil.copy(tmp_path / "other" / DECODER, copied / DECODER)
    with pytest.raises(ArtifactError, match="do not belong together"):
        check_onnx(copied)
    shutil.copy(copied / ENCODER, copied / DECODER)
    with pytest.raises(ArtifactError, match="do not belong together"):
        check_onnx(copied)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_beside_the_models(copied: Path, name: str) -> None:
    for damage, reason in ((b"{", "Expecting"), (b"[]", "no JSON object"), (b"\xff", "decode"), (b"[" * 9999, name)):
        (copied / name).write_bytes(damage)
        with pytest.raises(ArtifactError, match=reason):
            check_onnx(copied)
    (copied / name).unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        check_onnx(copied)


def test_tokens_of_sherpa(small_sherpa: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_sherpa, tmp_path / "sherpa")
    tokens = folder / "tokens.txt"
    data = tokens.read_bytes()
    for damage, reason in (
        (data[:-1], "it has 50256 lines, not 50257"),
        (data.replace(b" 7\n", b" 8\n", 1), "line 8 is not token 7"),
        (b"!" + data[1:], "base64"),
        (b"", "it has 0 lines"),
    ):
        tokens.write_bytes(damage)
        with pytest.raises(ArtifactError, match=rf"tokens\.txt cannot be used: .*{reason}"):
            check_onnx(folder)
    tokens.write_bytes(data)
    (folder / "encoder.onnx").unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        check_onnx(folder)


def test_other_folders(tmp_path: Path, copied: Path) -> None:
    for folder in (tmp_path / "gone", tmp_path):
        with pytest.raises(ArtifactError, match="is no ONNX export"):
            check_onnx(folder)
    shutil.copy(copied / ENCODER, copied / "onnx" / "encoder_model.onnx")
    with pytest.raises(ArtifactError, match="is no ONNX export"):
        check_onnx(copied)


@pytest.mark.parametrize("part", PARTS)
def test_a_plan_is_the_same_every_time(part: str) -> None:
    assert plan(part, SMALL, "int8") == plan(part, SMALL, "int8")
    assert plan(part, SMALL, "int8") != plan(part, SMALL, "fp32")


@settings(max_examples=200)
@given(
    name=st.sampled_from(["encoder", "decoder"]),
    at=st.one_of(st.integers(0, 20_000), st.integers(0, 2_000_000)),
    inserted=st.binary(max_size=4),
    removed=st.integers(0, 4),
)
@pytest.mark.slow
def test_any_damage_is_an_artifact_error_or_inside_a_weight(
    small_onnx: Path, tmp_path: Path, name: str, at: int, inserted: bytes, removed: int
) -> None:
    source = small_onnx / (ENCODER if name == "encoder" else DECODER)
    data, path = source.read_bytes(), tmp_path / "model.onnx"
    damaged = data[:at] + inserted + data[at + removed :]
    path.write_bytes(damaged)
    inside = len(damaged) == len(data) and any(
        start <= at and at + removed <= end for start, end in _weight_bytes(name)
    )
    if damaged == data or inside:
        check_model(path)
    else:
        with pytest.raises(ArtifactError):
            check_model(path)
