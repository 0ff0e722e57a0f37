"""Who may ask what: the Host it asks for, the token it shows, how often it may be wrong."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from daemon.sync.devices import READ, Device, Devices
from daemon.sync.limits import RateLimit, neighbour
from daemon.sync.listener import Listener
from idiolect.errors import StoreError

MAX_JSON_BYTES = 64 * 1024
WRONG_TOKENS_PER_MINUTE = 10
OPEN_REQUESTS_PER_MINUTE = 120

DEVICE = web.RequestKey("device", Device)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.IGNORECASE)
_BEARER = re.compile(r"Bearer +(idl_[A-Za-z0-9_-]{43})", re.IGNORECASE)
_KEPT = ("Allow", "Content-Range", "WWW-Authenticate", "Retry-After", "X-Error-Code", "X-Error-Message")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Route:
    """One thing that can be asked. `scope` is what the token must carry; "": any good token will do; None: anybody."""

    method: str
    path: str
    handler: Handler
    scope: str | None


class Guard:
    """The middleware before every handler. Where a route has a scope, `request[DEVICE]` is the asking Device."""

    def __init__(self, devices: Devices, own_names: set[str], routes: list[Route]) -> None:
        self._devices = devices
        self._own_names = own_names
        self._scopes: Mapping[object, str | None] = {route.handler: route.scope for route in routes}
        self._wrong = RateLimit(WRONG_TOKENS_PER_MINUTE, 60)
        self._open = RateLimit(OPEN_REQUESTS_PER_MINUTE, 60)
        self.listeners: list[Listener] = []

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse with 401, 403, 421 or 429, else let the handler answer."""
        visit = next((visit for each in self.listeners if (visit := each.visit(request))), None)
        if visit is not None:
            visit.asked = True
        self._check_host(request)
        # A route that says nothing of a scope is a mistake (500), never an open door; no route at all is 404 or 405.
        scope = None if request.match_info.http_exception else self._scopes[request.match_info.handler]
        if scope is None:
            _pause(self._open, request)
            self._open.note(_asker(request))
            return await handler(request)
        _pause(self._wrong, request)
        authorization = request.headers.getall("Authorization", [])
        token = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        device = self._devices.by_token(token[1]) if token else None
        if device is None:
            if authorization:
                self._wrong.note(_asker(request))
            raise web.HTTPUnauthorized(
                text="this needs the token of a paired device; pair it with `idiolect pair` on this computer",
                headers={"WWW-Authenticate": 'Bearer realm="idiolect"'},
            )
        is_reading = scope == READ and request.method in {"GET", "HEAD"}
        if request.secure is False and not device.compat:
            raise web.HTTPForbidden(text="this token is for TLS only; revoke it: it has travelled in the clear")
        if (scope and not device.may(scope)) or (device.compat and not is_reading):
            raise web.HTTPForbidden(text="this device's token does not allow this")
        if visit is not None:
            visit.device_id = device.id
        self._devices.seen(device)
        request[DEVICE] = device
        return await handler(request)

    def cut(self, device_id: str) -> None:
        """End what a device is doing now: its downloads, its waiting."""
        for listener in self.listeners:
            listener.cut(device_id)

    def _check_host(self, request: web.Request) -> None:
        # A page of the internet can make its own name point here (DNS rebinding) but not choose the Host header.
        own = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not is_known_host(hosts[0], {*self._own_names, own}):
            raise web.HTTPMisdirectedRequest(
                text=f"this is not {', '.join(hosts) or 'a host without a name'}; use an address of this machine"
            )


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


def body_deadline_s(size_bytes: int) -> float:
    """How long a body of this size may take: ten seconds, and what it needs at 64 KiB/s."""
    return 10.0 + size_bytes / 65_536


async def not_yet(_: web.Request) -> None:
    """Where a client waits for "100 Continue", it hears that from who wants its body, once it is known to be let in."""


async def want_body(request: web.Request) -> None:
    """Tell a client that waits with its body to send it."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has yet to begin


async def read_json(request: web.Request, model: type[_Model]) -> _Model:
    """The request's body as `model`. Raises 400, 408, 411, 413, 415."""
    size_bytes = request.content_length
    if size_bytes is None:
        raise web.HTTPLengthRequired(text="say how long the body is (Content-Length)")
    if size_bytes > MAX_JSON_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_JSON_BYTES, size_bytes, text=f"at most {MAX_JSON_BYTES} bytes")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text="send it as it is, without Content-Encoding")
    await want_body(request)
    try:
        async with asyncio.timeout(body_deadline_s(size_bytes)):
            return model.model_validate_json(await request.read())
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body came too slowly") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise web.HTTPBadRequest(text=f"{where}: {first['msg']}") from error


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as problem+json (RFC 9457); an unexpected failure goes to the log, not to the asker."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in _KEPT if name in error.headers}
        return _problem(error.status, error.text or error.reason, kept)
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        _log.debug("%s left before it was answered", request.remote)
        return web.Response(status=499)  # to no one; aiohttp would log an error and a traceback
    except StoreError as error:
        _log.warning("cannot answer %s: %s", request.path, error.message)
        return _problem(507, "this cannot be written here: the disk is full, or may not be written to", {})
    except Exception:
        _log.exception("cannot answer %s", request.path)
        return _problem(500, "this could not be answered; the service's log says why", {})


async def finish_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Say nothing about the programs here, and let no browser guess."""
    response.headers.pop("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


def too_many(wait_s: int, text: str) -> web.HTTPTooManyRequests:
    """429 with the time to wait."""
    return web.HTTPTooManyRequests(text=text, headers={"Retry-After": str(wait_s)})


def _problem(status: int, detail: str, headers: dict[str, str]) -> web.Response:
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


def _pause(limit: RateLimit, request: web.Request) -> None:
    if wait_s := limit.wait_s(_asker(request)):
        raise too_many(wait_s, "too many of these from your address; wait a little")


def _asker(request: web.Request) -> str:
    return neighbour(request.remote or "")
