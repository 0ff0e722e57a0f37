"""A disk that fills up while a model is written, after its free space looked enough: an error, and nothing half."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WRITE = """
import json, sys
from pathlib import Path
import exporters.ggml, exporters.plans
from exporters import export_to
from idiolect.errors import ExportError
exporters.ggml.free_bytes = exporters.plans.free_bytes = lambda folder: 1 << 40
checkpoint, disk = Path(sys.argv[1]), Path(sys.argv[2])
found = {}
for format, quantization in json.loads(sys.argv[3]).items():
    try:
        export_to(checkpoint, format, quantization, disk / "model")
        found[format] = "written"
    except ExportError as error:
        found[format] = error.message
    assert not list(disk.iterdir()), list(disk.iterdir())
print(json.dumps(found))
"""
FORMATS = {
    "ggml": "f16",
    "gguf": "f16",
    "onnx": "fp32",
    "sherpa-onnx": "int8",
    "ctranslate2": "float16",
    "huggingface": "float16",
}


@pytest.mark.slow
def test_nothing_half_is_left(small: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("a small disk of its own needs unshare(1)")
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = 'mount -t tmpfs -o size=1m none "$1" && echo mounted && exec "$2" -c "$3" "$4" "$1" "$5"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, "sh"]
    done = subprocess.run(
        [*command, disk, sys.executable, WRITE, small, json.dumps(FORMATS)], capture_output=True, text=True, check=False
    )
    if not done.stdout.startswith("mounted"):
        pytest.skip("this machine lets no user mount a tmpfs in a namespace of their own")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.removeprefix("mounted\n"))
    assert found.keys() == FORMATS.keys()
    for message in found.values():
        assert "No space left on device" in message
