"""The control socket: real sockets, the asking side in a thread as a command would be."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.paths import Paths
from daemon.sync.control import COMMANDS, MAX_REQUEST_BYTES, ControlServer, ask
from idiolect.errors import CheckpointError, ConfigError, NotRunning, UsageError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.at(tmp_path / "home")


@pytest.fixture
async def server(paths: Paths) -> AsyncIterator[ControlServer]:
    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "train":
            raise CheckpointError("tiny is not here", "run: idiolect models fetch tiny")
        return {"command": command, **arguments}

    made = ControlServer(paths.control_socket, handle)
    await made.start()
    yield made
    await made.stop()


async def _ask(paths: Paths, command: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    return await asyncio.to_thread(ask, paths, command, **arguments)


async def _raw(paths: Paths, request: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(paths.control_socket)
    writer.write(request)
    writer.write_eof()
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.usefixtures("server")
async def test_an_answer_comes_back(paths: Paths) -> None:
    assert await _ask(paths, "rescan", path=Path("/tmp/ä\n")) == {"command": "rescan", "path": "/tmp/ä\n"}


@pytest.mark.usefixtures("server")
async def test_an_error_comes_back_as_its_class(paths: Paths) -> None:
    with pytest.raises(CheckpointError, match="not here\nrun: idiolect models fetch tiny"):
        await _ask(paths, "train")


@pytest.mark.usefixtures("server")
async def test_unknown_commands_are_refused_with_the_known_ones(paths: Paths) -> None:
    with pytest.raises(UsageError, match=rf"(?s)unknown command 'dance'.*{', '.join(COMMANDS)}"):
        await _ask(paths, "dance")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "request_", [b"", b"not json\n", b"[1]\n", b'"status"\n', b"\xff\n", b"x" * (MAX_REQUEST_BYTES * 2) + b"\n"]
)
async def test_nonsense_is_answered_and_the_server_lives_on(paths: Paths, request_: bytes) -> None:
    assert (await _raw(paths, request_))["ok"] is False
    assert await _ask(paths, "status") == {"command": "status"}


@pytest.mark.usefixtures("server")
async def test_many_ask_at_once(paths: Paths) -> None:
    answers = await asyncio.gather(*(_ask(paths, "status", n=n) for n in range(20)))
    assert sorted(answer["n"] for answer in answers) == list(range(20))


@pytest.mark.usefixtures("server")
async def test_only_the_user_may_ask(paths: Paths) -> None:
    assert stat.S_IMODE(paths.control_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.control_socket.parent.stat().st_mode) == 0o700


async def test_without_a_daemon_the_asker_is_told_what_to_do(paths: Paths) -> None:
    with pytest.raises(NotRunning, match="idiolect run"):
        ask(paths, "status")
    paths.state.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(paths.control_socket))
    with pytest.raises(NotRunning, match="idiolect run"):
        ask(paths, "status")


async def test_a_daemon_that_hangs_is_told_apart_from_none(paths: Paths) -> None:
    paths.state.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(paths.control_socket))
        silent.listen()
        with pytest.raises(NotRunning, match="did not answer"):
            ask(paths, "status", timeout_s=0.1)


async def test_a_dead_daemons_socket_is_replaced_and_removed_at_the_end(paths: Paths, server: ControlServer) -> None:
    again = ControlServer(paths.control_socket, server._handle)
    await again.start()
    assert await _ask(paths, "status") == {"command": "status"}
    await again.stop()
    assert not paths.control_socket.exists()


async def test_a_long_home_works(tmp_path: Path, server: ControlServer) -> None:
    paths = Paths.at(tmp_path / ("x" * 120))
    far = ControlServer(paths.control_socket, server._handle)
    await far.start()
    try:
        assert await _ask(paths, "status") == {"command": "status"}
    finally:
        await far.stop()
        paths.control_socket.parent.rmdir()


async def test_a_folder_that_somebody_else_could_have_made_is_refused(tmp_path: Path, server: ControlServer) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="somebody else"):
        await ControlServer(tmp_path / "link" / "control.sock", server._handle).start()
