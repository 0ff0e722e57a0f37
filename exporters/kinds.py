"""What an exported file or folder is, told by what lies in it: who checks it and who runs it."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.errors import ArtifactError

if TYPE_CHECKING:
    from exporters.layout import Dims


@dataclass(frozen=True)
class Kind:
    """One kind of artifact. `mark`: how a file of it begins, or a glob that finds something in a folder of it.

    Import strings: `check(path)` raises ArtifactError or answers with an object that has `dims`; `runtime(path,
    threads)` checks and answers with a Transcriber.
    """

    name: str
    mark: bytes | str
    check: str
    runtime: str


KINDS = (
    Kind("onnx", "onnx/*.onnx", "exporters.onnx_reader:check_onnx", "exporters.onnx_runtime:OnnxWhisper"),
    Kind("sherpa-onnx", "tokens.txt", "exporters.onnx_reader:check_onnx", "exporters.runtimes:SherpaOnnx.checked"),
    Kind("coreml", "TextDecoder.*", "exporters.coreml_check:check_coreml", "exporters.coreml_runtime:open"),
    Kind(
        "ctranslate2",
        "model.bin",
        "exporters.ctranslate2_file:check_ctranslate2",
        "exporters.runtimes:FasterWhisper.checked",
    ),
    Kind(
        "huggingface",
        "model.safetensors",
        "exporters.huggingface:check_huggingface",
        "exporters.runtimes:Transformers.checked",
    ),
    Kind("gguf", b"GGUF", "exporters.gguf_file:check_gguf", "exporters.runtimes:TranscribeCpp.checked"),
    Kind(
        "ggml", b"", "exporters.readers:check_ggml", "exporters.runtimes:WhisperCpp.checked"
    ),  # its reader tells other files
)
"""The first that fits is it."""
RUNTIMES: Mapping[str, tuple[str, str]] = {
    "ggml": ("pywhispercpp", "whispercpp"),
    "gguf": ("transcribe_cpp", "gguf"),
    "onnx": ("onnxruntime", "onnx"),
    "sherpa-onnx": ("sherpa_onnx", "sherpa"),
    "coreml": ("coremltools", "coreml"),
    "ctranslate2": ("faster_whisper", "ct2"),
    "huggingface": ("transformers", "train"),
}
"""Format → (package that runs it, the extra that installs that)."""


def find_kind(path: Path) -> Kind | None:
    """What `path` is; None for what is no artifact, such as a model's folder, an exported one too: it is both."""
    return next((kind for kind in _fitting(path) if kind.name != "huggingface"), None)


def kind_of(path: Path) -> Kind:
    """What `path` is, taken for an artifact. Raises ArtifactError where it is none."""
    if kind := next(_fitting(path), None):
        return kind
    known = ", ".join(f"{kind.mark} ({kind.name})" for kind in KINDS if isinstance(kind.mark, str))
    raise ArtifactError(f"{path} is no exported model", f"expected a file, or a folder with one of {known}")


def dims_of(path: Path) -> Dims:
    """The dimensions of an artifact, which tell its tier. Raises ArtifactError for what its reader refuses."""
    dims: Dims = imported(kind_of(path).check)(path).dims
    return dims


def imported(name: str) -> Any:  # noqa: ANN401
    """The object that an import string `module:name` or `module:name.attribute` means."""
    module, _, attribute = name.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))


def _fitting(path: Path) -> Iterator[Kind]:
    folder = path.is_dir()
    for kind in KINDS:
        if isinstance(kind.mark, str):
            if folder and any(path.glob(kind.mark)):
                yield kind
        elif not folder and _begins_with(path, kind.mark):
            yield kind


def _begins_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}", "export or pull it again") from error
