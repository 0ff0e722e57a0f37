"""Failures at a chosen step: what a process does to files is counted by Python's audit events."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.symlink", "os.link"})


@contextlib.contextmanager
def acting_at_step(n: int, folder: Path, act: Callable[[], object]) -> Iterator[None]:
    """Within the block, call `act` when this process is about to open or change something below `folder` for the nth
    time, counted from 0."""
    if not _installed:  # a hook stays for the life of the process, so there is one
        sys.addaudithook(_hook)
        _installed.append(True)
    _watching.append((n, str(folder), act))
    try:
        yield
    finally:
        _watching.clear()


def killed_at_step(n: int, folder: Path, work: Callable[[], object]) -> bool:
    """Do `work` in a forked process that kills itself (SIGKILL) at its nth step; False where it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside other threads; the child uses none
        child = os.fork()
    if child == 0:
        try:
            with acting_at_step(n, folder, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                work()
        except BaseException:  # it must not come back as a second pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


_installed: list[bool] = []
_watching: list[tuple[int, str, Callable[[], object]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching or event not in EVENTS or _watching[0][1] not in str(arguments[0]):
        return
    left, folder, act = _watching.pop()
    if left == 0:
        act()
    else:
        _watching.append((left - 1, folder, act))
