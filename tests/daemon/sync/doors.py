"""A server with its key, its devices and one of them let in, as tests meet it."""

from __future__ import annotations

import functools
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from daemon.sync.devices import READ, RECORD, Devices
from daemon.sync.identity import Identity, ServerTls
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server


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
