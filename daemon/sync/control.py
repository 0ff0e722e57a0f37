"""How commands reach a running daemon: a unix socket in its home, one JSON line asked, one JSON line answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from daemon.paths import Paths
from daemon.sync import publishing
from idiolect.child import Message, error_from
from idiolect.errors import ConfigError, IdiolectError, NotRunning, UsageError

COMMANDS = ("status", "train", "rescan", "reload", "stop", "devices", "revoke", "pair", "inbox", *publishing.COMMANDS)
MAX_REQUEST_BYTES = 64 * 1024
REQUEST_WAIT_S = 5.0

Handler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlServer:
    """Listens at `path`. `handle(command, arguments)` answers; an IdiolectError it raises travels to the asker."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._handle = handle
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The caller holds the home's lock, so a socket that is already there is a dead daemon's."""
        _private_folder(self._path.parent)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_REQUEST_BYTES)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            try:
                line = await asyncio.wait_for(reader.readline(), REQUEST_WAIT_S)
                answer = await self._answer(line)
            except (IdiolectError, ValueError) as error:
                answer = _refusal(error)
            writer.write(json.dumps(answer, ensure_ascii=False, default=str).encode() + b"\n")
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        command = request.pop("command", None) if isinstance(request, dict) else None
        if command not in COMMANDS:
            raise UsageError(f"unknown command {command!r}", f"known: {', '.join(COMMANDS)}")
        return {"ok": True, **await self._handle(command, request)}


def ask(paths: Paths, command: str, *, timeout_s: float = 30.0, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """The running daemon's answer. Raises NotRunning when there is none, else the error it answered with."""
    nobody = NotRunning("no daemon is running for this home", "start it with: idiolect run")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(paths.control_socket))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise nobody from None
        try:
            connection.sendall(json.dumps({"command": command, **arguments}, default=str).encode() + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline()
        except TimeoutError:
            raise NotRunning(
                f"the daemon did not answer within {timeout_s:.0f} s", f"its log: {paths.log_file}"
            ) from None
        except ConnectionError:
            raise nobody from None
    if not line:
        raise nobody
    answer: dict[str, Any] = json.loads(line)
    if answer.pop("ok", False):
        return answer
    raise error_from(Message("error", answer))


def _refusal(error: IdiolectError | ValueError) -> dict[str, Any]:
    if not isinstance(error, IdiolectError):
        error = UsageError("not a request", 'expected one line such as {"command": "status"}')
    return {"ok": False, "error": error.kind, "message": error.message, "hint": error.hint}


def _private_folder(folder: Path) -> None:
    """Make it, 0700; refuse one that another user could have put there first (it may lie in /tmp)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder} belongs to somebody else", "choose another home with --home DIR")
    folder.chmod(0o700)
