"""What must stay light stays light: each module is imported as the first of ours, where heavy packages are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PACKAGES = ("idiolect", "device_profiles", "exporters", "training", "daemon")
MODULES = tuple(
    sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )
)

HEAVY = frozenset(
    {"torch", "transformers", "onnx", "onnxruntime", "coremltools", "accelerate", "pywhispercpp", "ctranslate2"}
)
NUMERIC = frozenset({"numpy", "av", "scipy", "soundfile", "jiwer"})
PARTS = frozenset({"aiohttp", "zeroconf", "watchdog", "sqlite3", "psutil"})
RESIDENT = ("daemon.run", "daemon.cli", "idiolect", "idiolect.client", "device_profiles")
"""They and all they import live in the resident process or in an app, and open no audio."""
COMMAND_LINE = ("daemon.cli", "idiolect.client")
"""What answers before anything else is needed: no server, no database, no discovery."""

PROBE = """
import importlib, json, sys, traceback
ours, refused, modules = json.loads(sys.argv[1])
asked = set()

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            asked.add(name)
            raise ModuleNotFoundError(f"{name} is refused", name=name)

sys.meta_path.insert(0, Refusal())
for module in modules:
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    asked.clear()
    try:
        importlib.import_module(module)
        found = sorted(asked)
    except BaseException:
        found = [traceback.format_exc()]
    print(json.dumps([module, found]), flush=True)
"""


@cache
def _asked_for(refused: frozenset[str], modules: tuple[str, ...]) -> dict[str, list[str]]:
    """For each module which of the packages it asks for when it is imported; the traceback where it cannot do without
    them, or cannot be imported at all."""
    command = [sys.executable, "-c", PROBE, json.dumps([PACKAGES, sorted(refused), modules])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported_first_and_brings_nothing_heavy(module: str) -> None:
    assert _asked_for(HEAVY, MODULES)[module] == []


@pytest.mark.parametrize("module", RESIDENT)
def test_the_resident_process_brings_no_numbers_and_no_audio(module: str) -> None:
    assert _asked_for(HEAVY | NUMERIC, RESIDENT)[module] == []


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_the_command_line_starts_without_the_daemons_parts(module: str) -> None:
    assert _asked_for(HEAVY | NUMERIC | PARTS, COMMAND_LINE)[module] == []
