"""One checkpoint and one device profile → one artifact that a named runtime loads. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from exporters.kinds import imported
from idiolect.child import Reporter
from idiolect.errors import UsageError
from idiolect.files import replacing_folder, safe_join, sha256_file

if TYPE_CHECKING:
    from device_profiles import Profile

Writer: TypeAlias = Callable[[Path, str, Path, Reporter], None]

FORMATS: dict[str, str] = {
    "ggml": "exporters.ggml:write",
    "gguf": "exporters.gguf:write",
    "onnx": "exporters.onnx:write",
    "sherpa-onnx": "exporters.sherpa:write",
    "coreml": "exporters.coreml:write",
    "ctranslate2": "exporters.ctranslate2:write",
    "huggingface": "exporters.huggingface:write",
}
"""Format → import string of its writer: `write(checkpoint, quantization, out, reporter)`, whole or not at all.

`out` is one file or one folder, as the format has it.
"""


@dataclass(frozen=True)
class ExportedFile:
    """One file of an artifact, its path relative to the artifact's folder; `magic`: hex of its first four bytes."""

    path: str
    size_bytes: int
    sha256: str
    magic: str


@dataclass(frozen=True)
class Export:
    """A finished artifact, made for the profile of that name: the file or folder `name` in `folder`."""

    profile: str
    format: str
    quantization: str
    folder: Path
    name: str
    files: tuple[ExportedFile, ...]

    @property
    def path(self) -> Path:
        """What a runtime opens."""
        return self.folder / self.name


def export(checkpoint: Path, profile: Profile, out: Path, reporter: Reporter | None = None) -> Export:
    """Write the profile's artifact as folder `out`, whole or not at all; what stood there is replaced.

    Raises what `export_to` raises.
    """
    name = profile.artifact_name()
    with replacing_folder(out) as folder:
        files = export_to(checkpoint, profile.format, profile.quantization, safe_join(folder, name), reporter)
    return Export(profile.name, profile.format, profile.quantization, out, name, files)


def export_to(
    checkpoint: Path, format: str, quantization: str, out: Path, reporter: Reporter | None = None
) -> tuple[ExportedFile, ...]:
    """Write the file or folder `out`, whole or not at all; its files, by paths that begin with its name.

    Raises UsageError (unknown format or quantization), CheckpointError, ExportError, ArtifactError, JobStopped.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no exporter for the format {format!r}", f"choose one of {', '.join(FORMATS)}")
    writer: Writer = imported(FORMATS[format])
    writer(checkpoint, quantization, out, reporter or Reporter())
    paths = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]
    return tuple(_record(path, path.relative_to(out.parent).as_posix()) for path in paths)


def export_file(
    checkpoint: Path, format: str, quantization: str, outfile: Path, reporter: Reporter | None = None
) -> ExportedFile:
    """`export_to` for a format that is one file."""
    (file,) = export_to(checkpoint, format, quantization, outfile, reporter)
    return file


def _record(path: Path, name: str) -> ExportedFile:
    with path.open("rb") as file:
        magic = file.read(4).hex()
    return ExportedFile(name, path.stat().st_size, sha256_file(path), magic)
