"""What the tests of the shell client share: the shells that are here, and a device as `pair` leaves it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.sync.doors import identity
from tests.daemon.sync.post import Post

SCRIPT = Path(__file__).parent.parent.parent / "clients" / "shell" / "idiolect"
NEEDED = ("curl", "openssl", "jq")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
SHELLS = [name for name in ("dash", "bash", "busybox", "mksh") if shutil.which(name)] or ["sh"]
TOKEN = "idl_" + "t" * 43

Client = Callable[..., subprocess.CompletedProcess[str]]
needs_its_tools = pytest.mark.skipif(bool(MISSING), reason=f"the shell client needs {', '.join(MISSING)}")
# What every shell has to understand; the rest is judged in the first one alone, as a second differs in syntax only.
every_shell = pytest.mark.parametrize("shell", SHELLS, indirect=True)


def address(at: Post) -> str:
    return f"127.0.0.1:{at.house.server.port}"


def invitation(at: Post) -> str:
    return at.house.server.pairing.open(at.store.repo, ["127.0.0.1:9", address(at)]).uri()


def let_in(tmp_path: Path, url: str, token: str = TOKEN, **more: str) -> None:
    """As `pair` leaves it."""
    (tmp_path / "config").mkdir(exist_ok=True)
    service = {"id": identity().id, "pin": identity().pin, "token": token, "urls": [url], **more}
    (tmp_path / "config" / "service.json").write_text(json.dumps(service))
