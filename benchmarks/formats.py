"""Every format and quantisation of a real-size Whisper: time and memory, beside limits for all of them together.

`python -m benchmarks.formats [tiny small …]`; exit status 1 when a limit is missed. The weights are random. Each export
runs in a fresh process; Core ML makes its parts in children of its own, whose largest counts.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.exporting import SMALL, TINY, make_checkpoint, measure
from device_profiles import FORMATS
from idiolect.files import folder_bytes

SIZES = {"tiny": TINY, "small": SMALL}
LIMITS = {"tiny": (180, 4.0), "small": (720, 8.0)}
"""Seconds for all, GB for each."""


def main() -> int:
    """Print one line for each export, and the sum."""
    return 0 if all([_size(name) for name in sys.argv[1:] or SIZES]) else 1


def _size(name: str) -> bool:
    from training.base_models import resolve

    with tempfile.TemporaryDirectory() as temporary:
        nano, folder = resolve("nano", Path(temporary) / "cache"), Path(temporary) / name
        make_checkpoint(folder, SIZES[name], nano)
        for path in nano.glob("*.json"):
            if not (folder / path.name).exists():
                shutil.copy(path, folder)
        total_s, largest_gb = 0.0, 0.0
        for format, quantizations in FORMATS.items():
            if format == "coreml" and find_spec("coremltools") is None:
                raise SystemExit('coremltools is not installed: pip install "idiolect[coreml]"')
            for quantization in quantizations:
                out = Path(temporary) / f"{quantization}_whisper-{name}"
                wall_s, peak_gb = _export(folder, format, quantization, out)
                total_s, largest_gb = total_s + wall_s, max(largest_gb, peak_gb)
                what = f"{name} {format} {quantization}"
                print(f"{what:28} {folder_bytes(out) / 1e6:7.1f} MB {wall_s:6.1f} s {peak_gb:5.2f} GB", flush=True)
                shutil.rmtree(out) if out.is_dir() else out.unlink()
    limit_s, limit_gb = LIMITS[name]
    kept = total_s <= limit_s and largest_gb <= limit_gb
    limits = f"limits {limit_s} s, {limit_gb:g} GB"
    print(f"{name}, all: {total_s:.0f} s, {largest_gb:.2f} GB; {limits}: {'kept' if kept else 'MISSED'}", flush=True)
    return kept


def _export(folder: Path, format: str, quantization: str, out: Path) -> tuple[float, float]:
    """Seconds, and the largest process in GB."""
    if format != "coreml":
        wall_s, _, peak_mb = measure(folder, format, quantization, out)
        return wall_s, peak_mb / 1e3
    from benchmarks.coreml import export

    started = time.perf_counter()
    parts = export(folder, quantization, out)
    return time.perf_counter() - started, max(part["peak_bytes"] for part in parts) / 1e9


if __name__ == "__main__":
    sys.exit(main())
