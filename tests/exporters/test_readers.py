"""Files that are damaged, or not what they claim to be, never reach a native runtime."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exporters import export_file
from exporters.checkpoint import read_dims
from exporters.layout import F16, QUANTIZATIONS
from exporters.readers import check_ggml
from idiolect.errors import ArtifactError
from tests.exporters.helpers import SMALL

_TOKENS_AT = 56 + 4 * 80 * 201
_KEY = b"encoder.blocks.0.attn.key.weight"


def test_a_sound_file(small: Path, small_file: Path) -> None:
    info = check_ggml(small_file)
    assert info.dims == SMALL == read_dims(small)
    assert (info.quantization, info.tokens, info.size_bytes) == ("q4_0", 50_258, small_file.stat().st_size)


def test_dimensions_tell_the_tier(small_file: Path, nano: Path) -> None:
    assert check_ggml(small_file).dims != read_dims(nano)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_nano_in_every_quantization(nano: Path, tmp_path: Path, name: str) -> None:
    """Its embedding has thousands of rows of zeros, which is no damage."""
    export_file(nano, "ggml", name, tmp_path / "m.bin")
    assert check_ggml(tmp_path / "m.bin").dims == read_dims(nano)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "starts with nothing"),
        (b"GGUF\3\0\0\0", "a GGUF file; whisper.cpp and FUTO Keyboard read only the older ggml container"),
        (b"PK\3\4rest", "a zip archive"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"<html><body>", "starts with 3c68746d, not 6c6d6767"),
        (b"lmgg", "ends too early"),
        (b"lmgg" + bytes(44), "vocabulary 0"),
    ],
)
def test_other_kinds_of_file(tmp_path: Path, start: bytes, reason: str) -> None:
    (tmp_path / "m.bin").write_bytes(start)
    with pytest.raises(ArtifactError, match=reason):
        check_ggml(tmp_path / "m.bin")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        check_ggml(tmp_path / "m.bin")
    with pytest.raises(ArtifactError, match="Is a directory"):
        check_ggml(tmp_path)


def _number(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + struct.pack("<i", value) + data[at + 4 :]


def _key(field: int, value: int) -> Callable[[bytes], bytes]:
    """Another number in the header of the tensor `_KEY`: 0 dimensions, 1 name's length, 2 type, 3 and 4 its shape."""
    return lambda data: _number(data.index(_KEY) - 20 + 4 * field, value)(data)


def _twice(data: bytes) -> bytes:
    return data.replace(_KEY, b"encoder.blocks.0.mlp.0.weight".ljust(len(_KEY), b"!"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_number(4, 51_867), "vocabulary 51867"),
        (_number(8, 0), "audio positions 0"),
        (_number(12, -32), "decoder width"),
        (_number(16, 7), "does not divide by 7"),
        (_number(20, 2_000_000_000), "encoder layers"),
        (_number(20, 2), "15 tensors are missing"),
        (_number(44, 2012), "ftype 12, which is none of f32, f16"),
        (_number(44, 2008), "type 2, not 6"),
        (_number(48, 128), "mel filters are 128 × 201"),
        (_number(_TOKENS_AT, 50_000), "lists 50000 tokens"),
        (_number(_TOKENS_AT, -1), "lists -1 tokens"),
        (_number(_TOKENS_AT + 4, 1 << 30), "token 0 claims 1073741824 bytes"),
        (_number(_TOKENS_AT + 4, -5), "token 0 claims -5 bytes"),
        (_key(0, 3), "unknown or there twice"),
        (_key(0, 1 << 30), "no tensor header"),
        (_key(1, 0), "no tensor header"),
        (_key(1, 1 << 30), "no tensor header"),
        (_key(2, 3), r"attn\.key\.weight has type 3, not 2"),
        (_key(3, 64), r"attn\.key\.weight is \[64, 32\], not \[32, 32\]"),
        (_key(4, -32), r"attn\.key\.weight is \[32, -32\]"),
        (_twice, "unknown or there twice"),
        (lambda data: data.replace(_KEY, _KEY.replace(b"blocks.0", b"blocks.1")), "unknown or there twice"),
        (lambda data: data + b"\0", "1 bytes follow the last tensor"),
        (lambda data: data[:-1], r"ends 1 bytes before decoder\.ln\.bias does"),
        (lambda data: data[:56] + bytes(_TOKENS_AT - 56) + data[_TOKENS_AT:], "mel filters are all zeros"),
    ],
)
def test_lies_are_found(small_file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(damage(small_file.read_bytes()))
    with pytest.raises(ArtifactError, match=reason) as caught:
        check_ggml(path)
    assert "export or pull it again" in caught.value.hint


def test_a_missing_tensor_is_named(small_file: Path, tmp_path: Path) -> None:
    data = small_file.read_bytes()
    last = data.index(b"decoder.ln.bias") - 16
    (tmp_path / "m.bin").write_bytes(data[:last])
    with pytest.raises(ArtifactError, match=r"1 tensors are missing, decoder\.ln\.bias among them"):
        check_ggml(tmp_path / "m.bin")


@pytest.mark.parametrize("filler", [b"\0" * 18, b"\0\x80" + b"\x88" * 16], ids=["bytes", "value"])
def test_a_zeroed_matrix_is_found(small_file: Path, tmp_path: Path, filler: bytes) -> None:
    data = small_file.read_bytes()
    start = data.index(_KEY) + len(_KEY)
    zeroed = data[:start] + filler * 32 + data[start + 18 * 32 :]
    (tmp_path / "m.bin").write_bytes(zeroed)
    with pytest.raises(ArtifactError, match=r"attn\.key\.weight is all zeros"):
        check_ggml(tmp_path / "m.bin")


def test_a_zeroed_convolution_or_norm_is_found_and_a_bias_may_be_zero(small_file: Path, tmp_path: Path) -> None:
    data, path = small_file.read_bytes(), tmp_path / "m.bin"

    def zeroed(name: bytes, size_bytes: int) -> bytes:
        start = data.index(name) + len(name)
        return data[:start] + bytes(size_bytes) + data[start + size_bytes :]

    for name, size_bytes in ((b"encoder.conv2.weight", F16.size_bytes(32 * 32 * 3)), (b"decoder.ln.weight", 4 * 32)):
        path.write_bytes(zeroed(name, size_bytes))
        with pytest.raises(ArtifactError, match=f"{name.decode()} is all zeros"):
            check_ggml(path)
    path.write_bytes(zeroed(b"decoder.ln.bias", 4 * 32))
    check_ggml(path)


_PROPERTY = settings(max_examples=60)


@_PROPERTY
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(small_file: Path, tmp_path: Path, share: float) -> None:
    data = small_file.read_bytes()
    (tmp_path / "m.bin").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError):
        check_ggml(tmp_path / "m.bin")


@_PROPERTY
@given(field=st.integers(0, 12), value=st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 2_000))
def test_any_other_number_in_the_header_is_refused(small_file: Path, tmp_path: Path, field: int, value: int) -> None:
    """Magic, ten dimensions, the type of the weights; the rows of the mel filters. Into how many heads the width is
    parted nothing else in the file tells."""
    assume(field not in (4, 8) or value < 1 or SMALL.n_audio_state % value)
    data = bytearray(small_file.read_bytes())
    assume(struct.unpack_from("<i", data, 4 * field) != (value,))
    struct.pack_into("<i", data, 4 * field, value)
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(ArtifactError):
        check_ggml(tmp_path / "m.bin")


@_PROPERTY
@given(share=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_byte_may_be_wrong(small_file: Path, tmp_path: Path, share: float, byte: int) -> None:
    """Inside the weights that is the digest's business; nowhere is it another error."""
    data = bytearray(small_file.read_bytes())
    data[int(share * len(data))] = byte
    (tmp_path / "m.bin").write_bytes(data)
    with contextlib.suppress(ArtifactError):
        check_ggml(tmp_path / "m.bin")
