"""`python -m tests.exporters.fuzzing [FILES]`: damaged artifacts of every format; their readers have to see through it.

Each is one byte, number, stretch or end away from a sound one, mostly in its head. A reader answers with ArtifactError,
or takes what is sound but for the weights inside; it never ends in anything else, and takes neither long nor much
memory, whatever sizes the file claims.
"""

from __future__ import annotations

import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from exporters.kinds import imported, kind_of
from exporters.serving import peak_bytes
from idiolect.errors import ArtifactError

DEFAULT_FILES = 10_000
HEAD_BYTES = 8_000
MAX_GROWTH_BYTES = 300e6
MAX_READING_S = 20.0  # of a quarter of a second; the machine may be busy
_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 1000, 1 << 40)


def main() -> int:
    """Damage that many files, spread over the formats that can be made here; 1 when a reader fails."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILES
    with tempfile.TemporaryDirectory() as temporary:
        sound = make_artifacts(Path(temporary))
        started, before = time.perf_counter(), peak_bytes()
        outcomes = fuzz(sound, Path(temporary) / "damaged", count, seed=random.randrange(1 << 32))
        for name in sound:
            refused, taken = outcomes[name, "refused"], outcomes[name, "taken"]
            print(f"{name:12} {refused:6} refused, {taken:5} sound but for weights and words")
        print(f"{count} files in {time.perf_counter() - started:.0f} s, {(peak_bytes() - before) / 1e6:.0f} MB more")
    return 0


def make_artifacts(folder: Path) -> dict[str, Path]:
    """One small artifact of each format whose packages are here."""
    from importlib.util import find_spec

    from exporters import FORMATS, export_to
    from tests.exporters.helpers import dims, make_checkpoint
    from training.base_models import resolve

    checkpoint = make_checkpoint(folder / "checkpoint", dims(width=64))
    made = {}
    for format in FORMATS:
        quantization = {"ggml": "q4_0", "gguf": "q4_0", "huggingface": "float16"}.get(format, "int8")
        if format == "coreml":
            if find_spec("coremltools") is None:
                print("coreml is left out: coremltools is not installed")
                continue
            nano = resolve("nano", folder / "cache")
            for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
                shutil.copyfile(nano / name, checkpoint / name)
        made[format] = folder / f"{format}_whisper-tiny"
        export_to(checkpoint, format, quantization, made[format])
    return made


def fuzz(sound: Mapping[str, Path], place: Path, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Damage copies at `place`, the formats taking turns; how many were refused and taken, by format.

    Raises AssertionError, naming the seed, where a reader does anything but refuse or rightly take.
    """
    draw = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    files = {name: _files(path) for name, path in sound.items()}
    before = peak_bytes()
    for name, path in sound.items():
        shutil.rmtree(place, ignore_errors=True)
        copy = place / path.name
        place.mkdir()
        shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
        check = imported(kind_of(path).check)
        weighty = [file for file in files[name] if file.stat().st_size > HEAD_BYTES] or files[name]
        for number in range(count // len(sound)):
            source = draw.choice(weighty if draw.random() < 0.8 else files[name])
            target = copy / source.relative_to(path) if path.is_dir() else copy
            data = source.read_bytes()
            target.write_bytes(damaged(data, draw))
            about = f"seed {seed}, {name} {source.name}, file {number}"
            started = time.perf_counter()
            try:
                check(copy)
                outcomes[name, "taken"] += 1
                whole = target.stat().st_size == len(data) or _says_the_same(target, data)
                assert whole, f"{about}: bytes are missing or left over"
            except ArtifactError:
                outcomes[name, "refused"] += 1
            except Exception as error:
                raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
            assert time.perf_counter() - started < MAX_READING_S, f"{about}: took too long"
            assert peak_bytes() - before < MAX_GROWTH_BYTES, f"{about}: took too much memory"
            target.write_bytes(data)
    return outcomes


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Another file: a byte, a number, a stretch or the end of it is not what it was."""
    reach = min(len(data), HEAD_BYTES) if draw.random() < 0.7 else len(data)
    at = draw.randrange(max(1, reach))
    kind = draw.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        code = draw.choice("<i <q >i".split())
        number = struct.pack(code, _fitting(draw.choice(_NUMBERS), struct.calcsize(code)))
        return data[:at] + number + data[at + len(number) :]
    if kind == 3:
        junk = draw.randbytes(draw.randrange(1, 40))
        return data[:at] + junk + data[at + len(junk) :]
    length = draw.randrange(1, 4000)
    if kind == 4:
        return data[:at] + data[at + length :]
    if kind == 5:
        return data[:at] + data[at : at + length] + data[at:]
    return data[:at] + bytes(length) + data[at + length :]


def _fitting(number: int, size_bytes: int) -> int:
    limit = 1 << (8 * size_bytes - 1)
    return max(-limit, min(limit - 1, number))


def _says_the_same(file: Path, sound: bytes) -> bool:
    """Whether a file of another size may mean what the sound one does: text, or fields that a protobuf has twice."""
    if file.suffix != ".mlmodel":
        return file.suffix in {".json", ".txt", ".md"}
    from coremltools.proto import Model_pb2

    found, wanted = Model_pb2.Model(), Model_pb2.Model()
    found.ParseFromString(file.read_bytes())
    wanted.ParseFromString(sound)
    return bool(found == wanted)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


if __name__ == "__main__":
    sys.exit(main())
