"""What must stay light stays light: each module is loaded in a process of its own, which tells what came with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PACKAGES = ("idiolect", "device_profiles", "exporters", "training", "daemon")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)

HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "coremltools", "accelerate", "pywhispercpp", "ctranslate2"}
NUMERIC = {"numpy", "av", "scipy", "soundfile", "jiwer"}
RESIDENT = ("daemon.run", "daemon.cli", "idiolect", "idiolect.client", "device_profiles")
"""They and all they import live in the resident process or in an app, and open no audio."""
COMMAND_LINE = ("daemon.cli", "idiolect.client")
"""What answers before anything else is needed: no server, no database, no discovery."""

LIGHT = ("aiohttp", "zeroconf", "watchdog", "typer", "rich")
"""Loaded beforehand for all other modules, because each would take a while to load them itself."""

# Forks of one interpreter that has loaded nothing of ours: as fresh as new ones and ten times as quick.
PROBE = """
import asyncio, importlib, json, logging, os, pydantic, sys, traceback
light, modules = json.loads(sys.argv[1])
for module in light:
    importlib.import_module(module)
for module in modules:
    if os.fork() == 0:
        try:
            importlib.import_module(module)
            found = sorted({name.split(".")[0] for name in sys.modules})
        except BaseException:
            found = traceback.format_exc()
        print(json.dumps([module, found]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str] | str]:
    """For each module the top-level names that importing it brings, or the traceback where it cannot be imported."""
    bare = {*RESIDENT, *COMMAND_LINE}
    return _probe((), bare) | _probe(LIGHT, set(MODULES) - bare)


def _probe(light: tuple[str, ...], modules: set[str]) -> dict[str, list[str] | str]:
    command = [sys.executable, "-c", PROBE, json.dumps([light, sorted(modules)])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported_first_and_brings_nothing_heavy(
    module: str, loaded: dict[str, list[str] | str]
) -> None:
    assert isinstance(loaded[module], list), loaded[module]
    assert not HEAVY & set(loaded[module])


@pytest.mark.parametrize("module", RESIDENT)
def test_the_resident_process_brings_no_numbers_and_no_audio(module: str, loaded: dict[str, list[str] | str]) -> None:
    assert not NUMERIC & set(loaded[module])


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_the_command_line_starts_without_the_daemons_parts(module: str, loaded: dict[str, list[str] | str]) -> None:
    assert not {"aiohttp", "zeroconf", "watchdog", "sqlite3", "psutil"} & set(loaded[module])
