"""Check an exported file's bytes before a native runtime sees them: runtimes trust sizes, and crash."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from exporters.layout import (
    MAGIC,
    MEL_BINS,
    QUANT_VERSION_STEP,
    QUANTIZATIONS,
    Dims,
    Quantization,
    Tensor,
    check_dims,
    check_fits,
    tensors,
)
from idiolect.errors import ArtifactError
from idiolect.whisper import special_tokens

MAX_TOKEN_BYTES = 512
MAX_NAME_BYTES = 128
_DAMAGED = "the file is damaged or was not copied whole; export or pull it again"
_OTHER_KINDS = {
    b"GGUF": "a GGUF file; whisper.cpp and FUTO Keyboard read only the older ggml container",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint",
    b"version ": "a Git LFS pointer; fetch the real file",
}


@dataclass(frozen=True)
class GgmlInfo:
    """What a whisper.cpp model file holds. `dims` tells the tier: equal to `exporters.checkpoint.read_dims(folder)`."""

    dims: Dims
    quantization: str
    tokens: int
    size_bytes: int


def check_ggml(path: Path) -> GgmlInfo:
    """Read a whisper.cpp model file's every header and the scales of its weights.

    Raises ArtifactError: another kind of file, impossible dimensions, a tensor that is missing, unknown, there twice,
    of the wrong shape or type, all zeros where only damage explains it, or bytes missing or left over at the end.
    """
    try:
        with path.open("rb") as file:
            return check_ggml_stream(file, path.name)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error


def check_ggml_stream(file: IO[bytes], name: str) -> GgmlInfo:
    """`check_ggml` of an open file; `name` stands in the errors."""
    return _Reader(file, name).check()


def is_zero(file: IO[bytes], stored_as: Quantization, size_bytes: int) -> bool:
    """True when every scale in the next so many bytes is 0 or -0, which makes every weight the same as zero."""
    while size_bytes > 0 and (data := file.read(min(size_bytes, 4096 * stored_as.block_bytes))):
        size_bytes -= len(data)
        for byte in range(stored_as.scale_bytes):
            high = byte == stored_as.scale_bytes - 1 if stored_as.type_code == 0 else byte % 2 == 1
            if data[byte :: stored_as.block_bytes].strip(b"\0\x80" if high else b"\0"):
                return False
    return True


class _Reader:
    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        self._file = file
        self._size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)

    def check(self) -> GgmlInfo:
        self._check_magic()
        *numbers, ftype = self._integers(11)
        dims = Dims(*numbers)
        if reason := check_dims(dims):
            raise self._error(f"its header says {reason}")
        quantization = self._quantization(dims, ftype)
        self._check_mel_filters(dims)
        tokens = self._skip_tokens(dims)
        missing = {tensor.name: tensor for tensor in tensors(dims)}
        while missing:
            if self._file.tell() == self._size_bytes:
                raise self._error(f"{len(missing)} tensors are missing, {next(iter(missing))} among them")
            self._check_tensor(missing, quantization)
        if left := self._size_bytes - self._file.tell():
            raise self._error(f"{left} bytes follow the last tensor")
        return GgmlInfo(dims, quantization.name, tokens, self._size_bytes)

    def _check_magic(self) -> None:
        start = self._file.read(8)
        if not start.startswith(MAGIC):
            kind = next((text for magic, text in _OTHER_KINDS.items() if start.startswith(magic)), "")
            found = kind or f"not a whisper.cpp model: it starts with {start[:4].hex() or 'nothing'}, not {MAGIC.hex()}"
            raise self._error(f"it is {found}")
        self._file.seek(len(MAGIC))

    def _quantization(self, dims: Dims, ftype: int) -> Quantization:
        for quantization in QUANTIZATIONS.values():
            if ftype in (quantization.ftype, quantization.header_ftype):
                if reason := check_fits(dims, quantization):
                    raise self._error(reason)
                return quantization
        known = ", ".join(QUANTIZATIONS)
        raise self._error(f"its header says ftype {ftype % QUANT_VERSION_STEP}, which is none of {known}")

    def _check_mel_filters(self, dims: Dims) -> None:
        n_mels, n_bins = self._integers(2)
        if (n_mels, n_bins) != (dims.n_mels, MEL_BINS):
            raise self._error(f"its mel filters are {n_mels} × {n_bins}, not {dims.n_mels} × {MEL_BINS}")
        if not any(self._bytes(4 * n_mels * n_bins)):
            raise self._error("its mel filters are all zeros")

    def _skip_tokens(self, dims: Dims) -> int:
        (count,) = self._integers(1)
        eot = special_tokens(dims.n_vocab).eot
        if count not in (eot, eot + 1):
            raise self._error(f"it lists {count} tokens, not {eot}")
        read = self._file.read  # 50 000 times: no method of ours in between
        for index in range(count):
            head = read(4)
            length = int.from_bytes(head, "little", signed=True)
            if not 0 <= length <= MAX_TOKEN_BYTES:
                raise self._error(f"token {index} claims {length} bytes")
            if len(head) + len(read(length)) < 4 + length:
                raise self._error("it ends too early")
        return count

    def _check_tensor(self, missing: dict[str, Tensor], quantization: Quantization) -> None:
        """One tensor's header and data; takes it out of `missing`."""
        n_dims, name_bytes, type_code = self._integers(3)
        if not (1 <= n_dims <= 4 and 1 <= name_bytes <= MAX_NAME_BYTES):
            raise self._error(f"there is no tensor header at byte {self._file.tell() - 12}")
        dims = self._integers(n_dims)
        name = self._bytes(name_bytes).decode("ascii", "replace")
        tensor = missing.pop(name, None)
        if tensor is None:
            raise self._error(f"tensor {name!r} is unknown or there twice")
        stored_as = tensor.stored_as(quantization)
        if dims != tensor.file_dims:
            raise self._error(f"{name} is {list(dims)}, not {list(tensor.file_dims)}")
        if type_code != stored_as.type_code:
            raise self._error(f"{name} has type {type_code}, not {stored_as.type_code} ({stored_as.name})")
        end = self._file.tell() + stored_as.size_bytes(tensor.elements)
        if end > self._size_bytes:
            raise self._error(f"it ends {end - self._size_bytes} bytes before {name} does")
        if not tensor.may_be_zero and is_zero(self._file, stored_as, end - self._file.tell()):
            raise self._error(f"{name} is all zeros")
        self._file.seek(end)

    def _integers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self._bytes(4 * count))

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise self._error("it ends too early")
        return data

    def _error(self, reason: str) -> ArtifactError:
        return ArtifactError(f"{self._name} cannot be used: {reason}", _DAMAGED)
