"""What devices on the network ask: who is there, which models, and the models' files. Reading only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from daemon.sync import blobs
from daemon.sync.discovery import addresses, label_or_default
from daemon.sync.releases import Published, ReleaseStore
from idiolect import wire
from idiolect.errors import ConfigError, StoreError

KEEPALIVE_S = 20.0
LONGEST_WAIT_S = 25.0

_log = logging.getLogger(__name__)
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,4})(?:$|[,;\s])")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves `store` on `bind` (an address or host name) and `port` (0: any free one)."""

    def __init__(self, store: ReleaseStore, label: str, bind: str, port: int) -> None:
        self._store = store
        self._label = label
        self._bind = bind
        self._port = port
        own_name = socket.gethostname().lower()
        self._names = {"localhost", own_name, f"{own_name.partition('.')[0]}.local"}
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Event()

    async def start(self) -> list[tuple[str, int]]:
        """Listen. Gives the addresses by which devices reach it. Raises ConfigError where it cannot listen there."""
        app = web.Application(middlewares=[_problems, self._only_known_hosts], client_max_size=64 * 1024)
        app.on_response_prepare.append(_finish_headers)
        app.router.add_get("/v1/hello", self._hello)
        app.router.add_get("/v1/manifest", self._manifest)
        app.router.add_get("/v1/blobs/sha256:{sha256:[0-9a-f]{64}}", self._blob)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._bind, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(self._bind, self._port, error) from error
        self._runner = runner
        port = runner.addresses[0][1]
        return [(host, port) for host in addresses(self._bind)]

    async def stop(self) -> None:
        """Stop listening; transfers that are under way are cut after two seconds (clients resume them)."""
        runner, self._runner = self._runner, None
        self.notify()
        if runner is not None:
            await runner.cleanup()

    def notify(self) -> None:
        """Wake those who wait for a new manifest. Call it in the event loop's thread after every publication."""
        self._news.set()
        self._news = asyncio.Event()

    async def _hello(self, _: web.Request) -> web.StreamResponse:
        repo = self._store.repo
        hello = wire.Hello(
            id=repo, api=[wire.API_VERSION], label=label_or_default(self._label, repo), now=wire.utc_now()
        )
        return web.Response(body=wire.dump(hello), content_type="application/json")

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(StoreError):  # then the old one is served, which is still good for weeks
            await asyncio.to_thread(self._store.renew)
        published = self._store.published
        if (wait_s := _wait_s(request)) and _is_known(request, published):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)
            published = self._store.published
        if published is None:
            raise web.HTTPNotFound(text="nothing has been published yet")
        headers = {"ETag": published.etag, "Cache-Control": "no-cache"}
        if _is_known(request, published):
            return web.Response(status=304, headers=headers)
        return web.Response(body=published.payload, content_type="application/json", headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        sha256 = request.match_info["sha256"]
        published, path = self._store.published, self._store.blob(sha256)
        if published is None or path is None or sha256 not in published.files:
            raise web.HTTPNotFound(text="no release has this file; ask for the manifest again")
        return await blobs.serve(request, path, published.files[sha256])

    @web.middleware
    async def _only_known_hosts(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        # A page of the internet can make its own name point here (DNS rebinding) but not choose the Host header.
        own = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not is_known_host(hosts[0], {*self._names, f"{self._store.repo}.local", own}):
            raise web.HTTPMisdirectedRequest(
                text=f"this is not {', '.join(hosts) or 'a host without a name'}; use an address of this machine"
            )
        return await handler(request)


def is_known_host(header: str, names: set[str]) -> bool:
    """True where a Host header holds one of `names` or a private IP address, with or without a port."""
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    host = match["host"].strip("[]").lower().removesuffix(".")
    if host in names:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_private and not address.is_unspecified


def _is_known(request: web.Request, published: Published | None) -> bool:
    """The asker has this manifest already; an asker who knows of none has the empty state."""
    if published is None:
        return "If-None-Match" not in request.headers
    return blobs.none_match(request, published.etag)


def _wait_s(request: web.Request) -> float:
    match = _WAIT.search(request.headers.get("Prefer", ""))
    return min(float(match[1]), LONGEST_WAIT_S) if match else 0.0


@web.middleware
async def _problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal as problem+json (RFC 9457); an unexpected failure goes to the log, not to the asker."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("Allow", "Content-Range") if name in error.headers}
        return _problem(error.status, error.text or error.reason, kept)
    except Exception:
        _log.exception("cannot answer %s", request.path)
        return _problem(500, "this could not be answered; the service's log says why", {})


def _problem(status: int, detail: str, headers: dict[str, str]) -> web.Response:
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


async def _finish_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


def _cannot_listen(bind: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} on {bind} is in use by another program",
            "choose another: [server] port in config.toml (0 takes any free one)",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} needs more rights", "choose [server] port of 1024 or more, or 0 for any")
    if error.errno in (errno.EADDRNOTAVAIL, None) or isinstance(error, socket.gaierror):  # None: asyncio, Python 3.13
        return ConfigError(
            f"{bind} is not an address of this machine",
            '[server] bind: "127.0.0.1" for this machine only, "0.0.0.0" for the whole network',
        )
    return ConfigError(f"cannot listen on {bind} port {port}: {error.strerror}", "see [server] in config.toml")
