"""A checkpoint as the folder that WhisperKit loads: three Core ML packages, a tokenizer and the model's settings.

Made on any machine. What only Apple hardware can tell (its compiler, the Neural Engine, speed) is not checked here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from exporters.checkpoint import Checkpoint, check_tokenizer, open_checkpoint
from exporters.coreml_check import check_coreml
from exporters.coreml_parts import alignment_heads
from exporters.layout import tensors
from exporters.weights import read_json
from exporters.whisperkit import (
    COMPANIONS,
    OPTIONAL_COMPANIONS,
    PARTS,
    QUANTIZATIONS,
    TOKENIZER_CLASSES,
    is_listed,
)
from idiolect.child import Reporter, error_from, parse
from idiolect.errors import ArtifactError, CheckpointError, ExportError, JobError, UsageError, require
from idiolect.files import free_bytes, replacing_folder


def write(checkpoint: Path, quantization: str, out: Path, reporter: Reporter) -> None:
    """Write folder `out` (f16, int8 or palette6) whole or not at all; each part in a process of its own.

    The same checkpoint gives the same bytes with the same versions of coremltools and torch. Reports the seconds and
    peak memory of each process as metrics. Before a byte is written: UsageError (unknown quantization), MissingExtra,
    CheckpointError (a model nobody can use, no tokenizer.json). Whenever it fails, what was there before stays:
    ExportError (disk full, a conversion failed), CheckpointError (weights that are not numbers), ArtifactError (the
    reader refuses the folder), JobStopped.
    """
    if quantization not in QUANTIZATIONS:
        raise UsageError(f"Core ML has no quantization {quantization!r}", f"choose one of {', '.join(QUANTIZATIONS)}")
    for package in ("coremltools", "torch"):
        require(package, "coreml")
    model = open_checkpoint(checkpoint)
    _check_companions(model)
    if not is_listed(out.name):
        reporter.warning(f"{out.name}: apps like WhisperAX list only folders whose name ends in the size, like -tiny")
    try:
        _check_space(model, out)
        with replacing_folder(out) as folder, tempfile.TemporaryDirectory(prefix=".coreml-", dir=out.parent) as scratch:
            for name in (*COMPANIONS, *OPTIONAL_COMPANIONS):
                if (checkpoint / name).is_file():
                    shutil.copyfile(checkpoint / name, folder / name)
            for part in PARTS:
                _convert(model, part, quantization, folder, scratch, reporter)
            _compile(folder, reporter)
            _check(model, quantization, folder)
    except OSError as error:
        raise ExportError(f"could not write {out}: {error.strerror}", "nothing was left behind") from error


def _check_companions(model: Checkpoint) -> None:
    alignment_heads(model.folder, model.dims)
    for name in COMPANIONS:
        if not (model.folder / name).is_file():
            raise CheckpointError(
                f"{model.folder} has no {name}, which WhisperKit needs", "copy it from the base model"
            )
    check_tokenizer(model.folder)
    written = read_json(model.folder / "tokenizer_config.json", "copy it from the base model").get("tokenizer_class")
    if written is not None and written not in TOKENIZER_CLASSES:
        accepted = ", ".join(TOKENIZER_CLASSES)
        raise CheckpointError(
            f"{model.folder}: tokenizer_class is {written!r}, WhisperKit knows {accepted}",
            "copy tokenizer_config.json from the base model",
        )


def _check_space(model: Checkpoint, out: Path) -> None:
    """A part lies on the disk twice while it is converted, its weights in float16."""
    out.parent.mkdir(parents=True, exist_ok=True)
    size_bytes = 2 * sum(2 * tensor.elements for tensor in tensors(model.dims))
    if size_bytes > (free := free_bytes(out.parent)):
        raise ExportError(
            f"{out} needs {size_bytes / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free", "free some space"
        )


def _convert(model: Checkpoint, part: str, quantization: str, folder: Path, scratch: str, reporter: Reporter) -> None:
    """Convert one part in a child, whose temporary files go to `scratch`; it is ended at once when asked to stop."""
    arguments = [str(model.folder), part, quantization, str(folder / f"{part}.mlpackage")]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", "exporters.coreml_convert", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TMPDIR": scratch},
            text=True,
        ) as child,
    ):
        threading.Thread(target=_end_when_stopped, args=(child, reporter), daemon=True).start()
        ended = None
        assert child.stdout is not None
        for message in filter(None, map(parse, child.stdout)):
            if message.kind == "progress":
                done, total = message.data["done"], message.data["total"]
                reporter.progress(PARTS.index(part) * total + done, len(PARTS) * total, "steps")
            elif message.kind in ("done", "error"):
                ended = message
        code = child.wait()
        reporter.check_stop()
        if ended and ended.kind == "done":
            reporter.metric(**ended.data)
        elif ended and not isinstance(error := error_from(ended), JobError):
            raise error
        else:
            reason = ended.data["message"] if ended else f"its process ended with status {code}"
            raise ExportError(f"{part} could not be converted: {reason}", _last_line(errors))


def _end_when_stopped(child: subprocess.Popen[str], reporter: Reporter) -> None:
    while child.poll() is None:
        if reporter.stop.wait(0.2):
            child.kill()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[-500:] for line in reversed(lines) if line.strip()), "")


def _compile(folder: Path, reporter: Reporter) -> None:
    """On a Mac with Xcode: each part compiled beside its package, which WhisperKit then loads in its place."""
    if (
        sys.platform != "darwin"
        or subprocess.run(["xcrun", "--find", "coremlcompiler"], capture_output=True).returncode
    ):
        return
    for part in PARTS:
        reporter.check_stop()
        command = ["xcrun", "coremlcompiler", "compile", str(folder / f"{part}.mlpackage"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ExportError(f"Apple's compiler refuses {part}: {done.stderr.strip()[-500:]}", "export it again")


def _check(model: Checkpoint, quantization: str, folder: Path) -> None:
    info = check_coreml(folder)
    if (info.dims, info.quantization) != (model.dims, quantization):
        raise ArtifactError(f"{folder.name} holds {info.quantization} of {info.dims}", "report this with your versions")
