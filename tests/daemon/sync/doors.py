"""A server with its key, its devices and one of them let in, as tests meet it."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemon.sync.devices import READ, RECORD, Devices
from daemon.sync.identity import Identity, ServerTls
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server

Answer = tuple[int, dict[str, str], bytes]


@functools.cache
def identity() -> Identity:
    """One key for all tests of a process, and for those who claim to be the service."""
    return Identity(Path(_folder().name))


@functools.cache
def stranger() -> Identity:
    """Another key."""
    return Identity(Path(_folder().name) / "stranger")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@dataclass
class House:
    """`token` is that of the device `phone`."""

    server: Server
    devices: Devices
    token: str


def house(store: ReleaseStore, folder: Path, door: Door | None = None) -> House:
    """A server that has yet to be started, on 127.0.0.1 unless `door` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = Devices(folder / "devices.sqlite3")
    _, token = devices.add("phone", "android", frozenset({READ, RECORD}))
    server = Server(store, identity(), devices, door or Door("desk", "127.0.0.1", 0))
    return House(server, devices, token)


@dataclass
class PlainHouse:
    """One that listens on the compatibility port too, at `url`; `token` is good there, and `ask` asks there."""

    home: House
    url: str
    token: str
    ask: Ask


class Ask(Protocol):
    """`ask(path, "Header: value", …)` byte by byte as given, with a good token or with `token`; "" for none."""

    def __call__(
        self,
        path: str,
        *headers: str,
        method: str = "GET",
        name: str | None = "127.0.0.1",
        token: str | None = None,
        body: bytes = b"",
    ) -> Coroutine[None, None, Answer]: ...


def asking(home: House, host: str, port: int, tls: ssl.SSLContext | None) -> Ask:
    """Ask the server that listens there."""

    async def ask(
        path: str,
        *headers: str,
        method: str = "GET",
        name: str | None = "127.0.0.1",
        token: str | None = None,
        body: bytes = b"",
    ) -> Answer:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        lines = [f"{method} {path} HTTP/1.1", *([f"Host: {name}"] if name is not None else []), *headers]
        lines += [f"Authorization: Bearer {home.token if token is None else token}"] if token != "" else []
        lines += [f"Content-Length: {len(body)}"] if body else []
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        status, *fields = head.decode().split("\r\n")
        return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), content

    return ask


def problem(answer: Answer) -> str:
    """What a refusal says, which has to be problem+json of its own status."""
    status, headers, body = answer
    assert headers["Content-Type"] == "application/problem+json"
    content = json.loads(body)
    assert content["status"] == status
    return str(content["detail"])


def client_tls() -> ssl.SSLContext:
    """TLS that takes any certificate, for tests that are not about it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_tls(who: Identity | None = None) -> ssl.SSLContext:
    """TLS with the service's own key, or that of `who`."""
    tls = ServerTls(who or identity())
    tls.renew(["127.0.0.1"])
    return tls.context
