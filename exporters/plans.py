"""Model files as plans: byte strings, and weights between them that are streamed from the checkpoint.

The writer fills the weights in, the reader steps over them: everything else in a sound file is equal to its plan, byte
for byte. Memory holds one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from exporters.checkpoint import Checkpoint
from exporters.weights import CHUNK_ELEMENTS
from idiolect.child import Reporter
from idiolect.errors import ExportError
from idiolect.files import free_bytes, replacing_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

FLOAT, INT8, FLOAT16 = 1, 3, 10
"""Types of weights, in ONNX's numbers."""
_ITEM_BYTES = {FLOAT: 4, INT8: 1, FLOAT16: 2}
_PIECE_BYTES = 1 << 20
_LEAST = 127 / 3.4e38  # whose factor float32 still holds

Form: TypeAlias = Literal["plain", "transposed", "int8", "scale", "int8-rows", "factor"]


@dataclass(frozen=True)
class Weight:
    """One tensor of the file, or some of its rows, made of the checkpoint's tensor `source`.

    `form` "transposed": a matrix (rows, columns) stored as (columns, rows); "int8": the same, each row divided by its
    scale and rounded; "scale": the rows' scales. "int8-rows": a matrix whose rows were multiplied by their factor and
    rounded; "factor": the rows' factors.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    source: str
    form: Form

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.data_type]


Plan: TypeAlias = list[bytes | Weight]


def plan_bytes(plan: Plan) -> int:
    """Size in bytes of the file."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size_bytes for piece in plan)


def write_planned(
    model: Checkpoint,
    plans: Mapping[str, Plan],
    texts: Mapping[str, bytes],
    check: Callable[[Path], object],
    out: Path,
    reporter: Reporter,
) -> None:
    """Write the folder `out` of planned and of ready files, by path in it, whole or not at all; `check` reads it.

    Raises ExportError (disk full or not writable), CheckpointError (weights that are not numbers), JobStopped, and
    what `check` does.
    """
    size_bytes = sum(map(plan_bytes, plans.values()))
    try:
        needed = size_bytes + sum(map(len, texts.values()))
        if needed > (free := free_bytes(out.parent)):
            raise ExportError(
                f"{out} needs {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free", "free some space"
            )
        with replacing_folder(out) as folder:
            done = 0
            for name, planned in plans.items():
                (folder / name).parent.mkdir(exist_ok=True)
                with (folder / name).open("wb") as file:
                    for data in _stream(model, planned):
                        reporter.check_stop()
                        file.write(data)
                        done += len(data)
                        reporter.progress(done, size_bytes, "bytes")
            for name, text in texts.items():
                (folder / name).write_bytes(text)
            check(folder)
    except OSError as error:
        raise ExportError(f"could not write {out}: {error.strerror}", "nothing was left behind") from error


def weight_data(model: Checkpoint, weight: Weight) -> npt.NDArray[Any]:
    """A weight as it stands in the file, made row by row. Raises CheckpointError for what float16 could not hold."""
    import numpy as np

    stored = model.tensors[weight.source]
    out = np.empty(weight.shape, {FLOAT: "<f4", FLOAT16: "<f2", INT8: "i1"}[weight.data_type])
    rows = (out.T if weight.form in ("transposed", "int8") else out).reshape(stored.shape[0], -1)
    columns = math.prod(stored.shape[1:])
    block = max(1, CHUNK_ELEMENTS // columns)
    for index, values in enumerate(stored.exact_chunks(block * columns)):
        rows[index * block : (index + 1) * block] = _formed(values.reshape(-1, columns), weight.form)
    return out


def check_plan(file: IO[bytes], planned: Plan) -> None:
    """Raise ValueError unless the file is as planned, and no weight but a bias all zeros."""
    size_bytes, expected = file.seek(0, 2), plan_bytes(planned)
    if size_bytes != expected:
        raise ValueError(f"it has {size_bytes} bytes, not {expected}")
    file.seek(0)
    for piece in planned:
        if isinstance(piece, Weight):
            if not _any_weight(file, piece) and not piece.source.endswith(".bias"):
                raise ValueError(f"{piece.name} is all zeros")
        elif file.read(len(piece)) != piece:
            raise ValueError(f"its structure is not what this version writes, before byte {file.tell()}")


def _stream(model: Checkpoint, planned: Plan) -> Iterator[bytes | memoryview]:
    for piece in planned:
        yield piece if isinstance(piece, bytes) else weight_data(model, piece).data.cast("B")


def _formed(rows: Floats, form: Form) -> Floats:
    """Rows of weights, or of their scales, in the numbers that are stored. A row of zeros has a scale of 1."""
    import numpy as np

    if form in ("int8", "scale"):
        scales = np.abs(rows).max(1, keepdims=True) / np.float32(127)
        scales[scales == 0] = 1
        return scales if form == "scale" else np.rint(rows / scales)  # type: ignore[no-any-return]
    if form in ("int8-rows", "factor"):
        largest = np.abs(rows).max(1, keepdims=True)
        largest[largest == 0] = 127
        factors = np.float32(127) / np.maximum(largest, _LEAST)
        return factors if form == "factor" else np.rint(rows * factors)  # type: ignore[no-any-return]
    return rows


def _any_weight(file: IO[bytes], weight: Weight) -> bool:
    """True when a byte is not zero; the file stands behind the weight then."""
    end, found = file.tell() + weight.size_bytes, False
    while not found and (left := end - file.tell()) > 0:
        found = bool(file.read(min(left, _PIECE_BYTES)).strip(b"\0"))
    file.seek(end)
    return found
