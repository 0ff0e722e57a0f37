"""Code in a user and mount namespace of its own: real mounts and real limits without touching the machine's."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

APART = ("unshare", "--user", "--map-root-user", "--mount", "--net")

PREAMBLE = """
import asyncio, os, subprocess, sys, time
from pathlib import Path
from daemon.intake import intake as module
from daemon.intake.intake import Intake
from daemon.intake.library import Library
from tests.training.samples import sound, write_wav

home = Path(sys.argv[1])
module.POLL_S = 0.1

def mount(at, *options):
    at.mkdir(exist_ok=True, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", at], check=True)

def unmount(at):
    subprocess.run(["umount", "--lazy", at], check=True)

def put(path, seed=0, text="some words"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, sound(0.5, seed=seed))
    path.with_suffix(".txt").write_text(f"{text} {seed}")

async def until(what):
    async with asyncio.timeout(600):
        while not what():
            await asyncio.sleep(0.02)

"""


@cache
def _refusal() -> str:
    """Why there can be no such namespace here; empty where there can."""
    try:
        test = [*APART, "sh", "-c", "mount -t tmpfs none /mnt && sysctl -qw user.max_inotify_watches=1000"]
        tried = subprocess.run(test, capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return tried.stderr.decode(errors="replace").strip() or ("refused" if tried.returncode else "")


def run_apart(code: str, home: Path) -> None:
    """Run `code` after `PREAMBLE` with `home` as its folder; skip the test where the machine allows no namespaces."""
    if not sys.platform.startswith("linux") or _refusal():
        pytest.skip(f"no user namespace with mounts here: {_refusal() or sys.platform}")
    script = PREAMBLE + textwrap.dedent(code)
    done = subprocess.run([*APART, sys.executable, "-c", script, home], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
