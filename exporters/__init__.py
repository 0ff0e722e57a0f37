"""One checkpoint and one device profile → one artifact that a named runtime loads. Imports neither torch nor numpy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from exporters.kinds import imported
from idiolect.child import Reporter
from idiolect.errors import UsageError
from idiolect.files import replacing_folder, safe_join, sha256_file

if TYPE_CHECKING:
    from device_profiles import Profile
    from idiolect.transcriber import Transcriber

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
class Checked:
    """What an artifact did in the runtime that loads it.

    `runtime`: name and version. `numbers`, by name: `load_s` where it was only loaded; where it heard recordings, what
    they gave (`wer`, `cer`, `loops`: fractions; `speed_x`: times real time; …). `not_checked`: what only other
    hardware can tell.
    """

    runtime: str
    numbers: Mapping[str, float]
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, made for the profile of that name: the file or folder `name` in `folder`."""

    profile: str
    format: str
    quantization: str
    folder: Path
    name: str
    files: tuple[ExportedFile, ...]
    checked: Checked

    @property
    def path(self) -> Path:
        """What a runtime opens."""
        return self.folder / self.name


def load(path: Path) -> Checked:
    """Load an exported file or folder in its own runtime, in a child process, and nothing more.

    Raises ArtifactError (its reader refuses it), MissingExtra, RuntimeFailed (the runtime does).
    """
    from exporters.apart import open_apart

    started = time.perf_counter()
    transcriber = open_apart(path)
    load_s = time.perf_counter() - started
    transcriber.close()
    return Checked(transcriber.runtime, {"load_s": load_s}, unchecked_by(transcriber))


def unchecked_by(transcriber: Transcriber) -> tuple[str, ...]:
    """What a runtime cannot tell here of what the device will do; most run as they do there."""
    told: tuple[str, ...] = getattr(transcriber, "not_checked", ())
    return told


def export(
    checkpoint: Path,
    profile: Profile,
    out: Path,
    reporter: Reporter | None = None,
    check: Callable[[Path], Checked] = load,
) -> Artifact:
    """Write the profile's artifact as folder `out`, whole or not at all; what stood there is replaced.

    `check` runs it in its runtime before it takes that place. Raises what `export_to` and `check` raise.
    """
    name = profile.artifact_name()
    with replacing_folder(out) as folder:
        path = safe_join(folder, name)
        files = export_to(checkpoint, profile.format, profile.quantization, path, reporter)
        checked = check(path)
    return Artifact(profile.name, profile.format, profile.quantization, out, name, files, checked)


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
