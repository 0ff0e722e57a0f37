"""Accepting connections: who may hold how many, and how long each may take to say what it wants.

aiohttp waits for a first request for ever, and asyncio's servers take every connection; so the sockets are accepted
here and only handed to aiohttp once they are within bounds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from daemon.sync.limits import neighbour

HEADER_S = 5.0
"""Within this the TLS handshake, and after it the first request's header, have to be complete."""
MAX_STRANGERS_PER_ADDRESS = 8
MAX_STRANGERS = 64
MAX_CONNECTIONS = 512
ACCEPT_PAUSE_S = 1.0

_log = logging.getLogger(__name__)

_Key = tuple[Any, Any]


@dataclass(eq=False)
class Visit:
    """One connection. `device_id` is set by its first request with a good token; until then it is a stranger's."""

    address: str
    transport: asyncio.BaseTransport | None = None
    asked: bool = False
    device_id: str = ""

    @property
    def is_over(self) -> bool:
        """The connection is closed, from either side."""
        return self.transport is not None and self.transport.is_closing()

    def cut(self) -> None:
        """End it now, in the middle of whatever it is."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()


class Listener:
    """Accepts for `server`, with TLS by `context` or without."""

    def __init__(self, server: web.Server, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._context = context
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._visits: dict[_Key, Visit] = {}

    async def start(self, bind: str, port: int) -> int:
        """Listen on every address of `bind`; gives the port. Raises OSError, socket.gaierror."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                both = address[0] == "::" and socket.has_dualstack_ipv6()  # IPv4 devices come by "::" as well
                listening = socket.create_server(
                    (str(address[0]), port), family=family, backlog=128, dualstack_ipv6=both
                )
                listening.setblocking(False)
                self._sockets.append(listening)
                port = listening.getsockname()[1]
        except OSError:
            await self.stop()
            raise
        for listening in self._sockets:
            self._spawn(self._accept(listening))
        return port

    async def stop(self) -> None:
        """Accept no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    def visit(self, request: web.Request) -> Visit | None:
        """The connection that `request` came by, where it is this listener's and still open."""
        transport = request.transport
        if transport is None:
            return None
        visit = self._visits.get((transport.get_extra_info("peername"), transport.get_extra_info("sockname")))
        if visit is not None:
            visit.transport = transport
        return visit

    def cut(self, device_id: str) -> None:
        """End every connection of this device."""
        for visit in self._visits.values():
            if visit.device_id == device_id:
                visit.cut()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:  # too many open files, most likely
                _log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            address = neighbour(str(peer[0]))
            if self._is_full(address):
                connection.close()
                continue
            key = (peer, connection.getsockname())
            self._visits[key] = visit = Visit(address)
            self._spawn(self._hand_over(connection, key, visit))

    async def _hand_over(self, connection: socket.socket, key: _Key, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = HEADER_S if self._context else None
        try:
            visit.transport, _ = await loop.connect_accepted_socket(
                self._server, connection, ssl=self._context, ssl_handshake_timeout=deadline_s
            )
        except (OSError, asyncio.CancelledError):  # no TLS, or too slow
            connection.close()
            if self._visits.get(key) is visit:
                del self._visits[key]
            return
        await asyncio.sleep(HEADER_S)
        if not visit.asked:
            visit.cut()

    def _is_full(self, address: str) -> bool:
        for key in [key for key, visit in self._visits.items() if visit.is_over]:
            del self._visits[key]
        strangers = [visit.address for visit in self._visits.values() if not visit.device_id]
        return (
            strangers.count(address) >= MAX_STRANGERS_PER_ADDRESS
            or len(strangers) >= MAX_STRANGERS
            or len(self._visits) >= MAX_CONNECTIONS
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
