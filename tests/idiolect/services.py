"""Services to pull from in tests: the real one, a cable that breaks before it, and one that lies."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import select
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.sync.identity import Identity
from daemon.sync.releases import ReleaseStore
from idiolect.connection import Connection
from tests.daemon.sync.doors import client_tls, house, identity, server_tls


@contextlib.contextmanager
def serving(store: ReleaseStore) -> Iterator[Connection]:
    """The real server in a thread of its own; gives the way to it, with the token of a device."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with tempfile.TemporaryDirectory() as folder:
        let_in = house(store, Path(folder))
        try:
            ((host, port),) = asyncio.run_coroutine_threadsafe(let_in.server.start(), loop).result(10)
            yield Connection(f"https://{host}:{port}", identity().pin, let_in.token)
        finally:
            asyncio.run_coroutine_threadsafe(let_in.server.stop(), loop).result(10)
            let_in.devices.close()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@dataclass
class Cable:
    """`cuts` holds after how many bytes of answer each next connection ends; then all go through whole.

    `reset`: it ends as when the Wi-Fi is gone, and what the client had not read yet is lost; else politely.
    """

    url: str = ""
    reset: bool = False
    cuts: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    answer_bytes: int = 0


@contextlib.contextmanager
def through_a_cable(url: str) -> Iterator[Cable]:
    """A relay before the service at `url` that has its key, so that it sees what is said and counts it."""
    target = url.removeprefix("https://").split(":")
    inside, outside = client_tls(), server_tls()
    listener = socket.create_server(("127.0.0.1", 0))
    cable = Cable(f"https://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []

    def relay(raw: socket.socket, left: int) -> None:
        with (
            contextlib.suppress(OSError),
            raw,
            outside.wrap_socket(raw, server_side=True) as client,
            socket.create_connection((target[0], int(target[1])), 10) as raw_service,
            inside.wrap_socket(raw_service) as service,
        ):
            request = client.recv(65_536)
            cable.requests.append(request)
            service.sendall(request)
            while data := (said := _next(client, service)).recv(65_536):
                if said is client:
                    service.sendall(data)
                    continue
                client.sendall(data[:left])
                cable.answer_bytes += len(data[:left])
                left -= len(data)
                if left <= 0:
                    if cable.reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                threads.append(
                    threading.Thread(target=relay, args=(client, cable.cuts.pop(0) if cable.cuts else 1 << 40))
                )
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield cable
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in [acceptor, *threads]:
            thread.join(10)


def _next(*sides: ssl.SSLSocket) -> ssl.SSLSocket:
    """The side that has something to say."""
    for side in sides:
        if side.pending():
            return side
    ready: list[ssl.SSLSocket] = select.select(sides, [], [])[0]
    return ready[0]


Answer = Callable[["Request"], None]


class Request(http.server.BaseHTTPRequestHandler):
    """One request to a lying service; answers use `send` or write as they like."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        server = self.server
        assert isinstance(server, LyingService)
        server.requests.append(self)
        with contextlib.suppress(ConnectionError):
            server.answers[self.path](self)

    def do_POST(self) -> None:
        self.do_GET()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; `Content_Length` and the like in `headers` replace what would be sent."""
        named = {"Content-Length": str(len(body))} | {key.replace("_", "-"): value for key, value in headers.items()}
        self.send_response(status)
        for name, value in named.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class LyingService(http.server.ThreadingHTTPServer):
    """`answers` maps a path to what is done with a request for it. It has the key of `who`, or the service's own."""

    def __init__(self, who: Identity | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.socket = server_tls(who).wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []

    def handle_error(self, *_: object) -> None:
        """Quiet: clients that see through the lies leave in the middle."""


@contextlib.contextmanager
def lying(who: Identity | None = None) -> Iterator[LyingService]:
    """A lying service that listens."""
    service = LyingService(who)
    thread = threading.Thread(target=service.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()
