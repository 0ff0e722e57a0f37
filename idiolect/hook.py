"""What is started after a new model has come: a program with its arguments, never a shell.

The program learns what came from its environment, so that no text from the network becomes part of a command line:
IDIOLECT_RELEASE, IDIOLECT_TIER, IDIOLECT_PROFILE, IDIOLECT_FOLDER, IDIOLECT_FILE (the first of the model's files) and
IDIOLECT_PREVIOUS (the folder of the version before, or empty).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from idiolect.errors import HookFailed, UsageError

if TYPE_CHECKING:
    from idiolect.client import Pulled

TIMEOUT_S = 120.0


class Hook:
    """The program `argv[0]` with its arguments. Raises UsageError where there is no such program."""

    def __init__(self, argv: Sequence[str]) -> None:
        program = shutil.which(argv[0]) if argv else None
        if program is None:
            raise UsageError(
                f"there is no program {argv[0] if argv else ''!r} to run", "name a program, its arguments after --"
            )
        self._argv = [program, *argv[1:]]

    def run(self, pulled: Pulled, timeout_s: float = TIMEOUT_S) -> None:
        """Run it to its end; what it prints goes to standard error. Raises HookFailed."""
        told = {
            "IDIOLECT_RELEASE": pulled.release_id,
            "IDIOLECT_TIER": pulled.tier,
            "IDIOLECT_PROFILE": pulled.profile,
            "IDIOLECT_FOLDER": str(pulled.into),
            "IDIOLECT_FILE": str(pulled.files[0]),
            "IDIOLECT_PREVIOUS": str(pulled.previous or ""),
        }
        name = self._argv[0]
        try:
            done = subprocess.run(
                self._argv,
                env=os.environ | told,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                timeout=timeout_s,
                check=False,
            )
        except OSError as error:
            raise HookFailed(f"{name} cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise HookFailed(f"{name} did not end within {timeout_s:.0f} s", "let it start what lasts longer") from None
        if done.returncode != 0:
            raise HookFailed(
                f"{name} ended with {done.returncode}", "the new model is in place; the next pull runs it again"
            )
