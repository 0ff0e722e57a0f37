from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.shells import SCRIPT, SHELLS, Client, address, let_in
from tests.daemon.sync.post import Post, posting
from tests.daemon.sync.publishing import candidate, model_bytes


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> list[str]:
    name = getattr(request, "param", SHELLS[0])
    return [str(shutil.which(name)), *(["sh"] if name == "busybox" else [])]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a curl that notes how it was called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "curl").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/calls\nexec {shutil.which("curl")} "$@"\n'
    )
    (tools / "curl").chmod(0o755)
    return {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "IDIOLECT_CONFIG": str(tmp_path / "config"),
        "IDIOLECT_PAUSE_S": "0",
        "https_proxy": "http://127.0.0.1:9",
    }


@pytest.fixture
def client(shell: list[str], environment: dict[str, str]) -> Client:
    def client(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command = [*shell, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)

    return client


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Post]:
    with posting(tmp_path / "home") as at:
        yield at


@pytest.fixture
def publish(at: Post, tmp_path: Path) -> Callable[..., bytes]:
    def publish(seed: int, size_bytes: int = 5_000) -> bytes:
        at.store.publish(candidate(tmp_path / "made", seed, size_bytes=size_bytes))
        return model_bytes(seed, size_bytes)

    return publish


@pytest.fixture
def paired(at: Post, tmp_path: Path) -> Post:
    let_in(tmp_path, f"https://{address(at)}", at.house.token, root_key=at.house.server.root_key)
    return at
