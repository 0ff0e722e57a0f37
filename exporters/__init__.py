"""One checkpoint and one device profile → one artifact that a named runtime loads. Imports neither torch nor numpy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from idiolect.child import Reporter
from idiolect.errors import UsageError
from idiolect.files import replacing_folder, safe_join, sha256_file

if TYPE_CHECKING:
    from device_profiles import Profile

Writer: TypeAlias = Callable[[Path, str, Path, Reporter], None]

FORMATS: dict[str, str] = {
    "ggml": "exporters.ggml:write",
}
"""Format → import string of its writer: `write(checkpoint, quantization, outfile, reporter)`, whole or not at all."""


@dataclass(frozen=True)
class ExportedFile:
    """One file of an artifact, its path relative to the artifact's folder; `magic`: hex of its first four bytes."""

    path: str
    size_bytes: int
    sha256: str
    magic: str


@dataclass(frozen=True)
class Export:
    """A finished artifact in `folder`, made for the profile of that name."""

    profile: str
    format: str
    quantization: str
    folder: Path
    files: tuple[ExportedFile, ...]


def export(checkpoint: Path, profile: Profile, out: Path, reporter: Reporter | None = None) -> Export:
    """Write the profile's artifact as folder `out`, whole or not at all; what stood there is replaced.

    Raises what `export_file` raises.
    """
    name = profile.artifact_name()
    with replacing_folder(out) as folder:
        file = export_file(checkpoint, profile.format, profile.quantization, safe_join(folder, name), reporter)
    return Export(profile.name, profile.format, profile.quantization, out, (_at(file, name),))


def export_file(
    checkpoint: Path, format: str, quantization: str, outfile: Path, reporter: Reporter | None = None
) -> ExportedFile:
    """Write one file, whole or not at all; the record's path is its name.

    Raises UsageError (unknown format or quantization), CheckpointError, ExportError, ArtifactError, JobStopped.
    """
    _writer(format)(checkpoint, quantization, outfile, reporter or Reporter())
    with outfile.open("rb") as file:
        magic = file.read(4).hex()
    return ExportedFile(outfile.name, outfile.stat().st_size, sha256_file(outfile), magic)


def _writer(format: str) -> Writer:
    if format not in FORMATS:
        raise UsageError(f"there is no exporter for the format {format!r}", f"choose one of {', '.join(FORMATS)}")
    module, _, name = FORMATS[format].partition(":")
    writer: Writer = getattr(importlib.import_module(module), name)
    return writer


def _at(file: ExportedFile, path: str) -> ExportedFile:
    return ExportedFile(path, file.size_bytes, file.sha256, file.magic)
