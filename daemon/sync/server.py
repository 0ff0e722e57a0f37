"""What devices on the network ask: who is there, to be let in, which models, and the models' files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from daemon.sync import blobs, guard
from daemon.sync.devices import READ, Device, Devices
from daemon.sync.discovery import addresses, label_or_default
from daemon.sync.guard import Guard, Route
from daemon.sync.hub import Hub
from daemon.sync.identity import Identity, ServerTls
from daemon.sync.limits import Bandwidth, Slots, neighbour
from daemon.sync.listener import Listener
from daemon.sync.openapi import Specification
from daemon.sync.pairing import PairingDesk, Refusal
from daemon.sync.releases import Published, ReleaseStore
from idiolect import pairing, wire
from idiolect.errors import ConfigError, StoreError

KEEPALIVE_S = 20.0
LONGEST_WAIT_S = pairing.LONG_POLL_S
LINGER_S = 1.0
"""For so long the rest of a refused body is thrown away, so that the asker reads why; then the connection ends."""
ADDRESSES_POLL_S = 10.0
RENEWAL_LOOK_S = 10.0
"""No more often than this it is looked whether the manifest is due for renewal, however many ask for it."""
ANSWERED_S = 1.0
"""After this a device that has left has its answer, and what else it had open is cut."""

_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,4})(?:$|[,;\s])")


OnReport = Callable[[Device, wire.Report], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """Where the server listens. `plain_port` is the read-only compatibility port (HTTP, 0: any free one), if any."""

    label: str
    bind: str
    port: int
    plain_port: int | None = None
    bytes_per_s: float = 0.0
    interfaces: tuple[str, ...] = ()


class Server:
    """Serves `store` over TLS to the `devices` that were let in, as the machine of `identity`; `more` is what else
    can be asked."""

    def __init__(
        self, store: ReleaseStore, identity: Identity, devices: Devices, door: Door, more: Sequence[Route] = ()
    ) -> None:
        self._store = store
        self._devices = devices
        self._door = door
        self._pace = blobs.Pace(Slots(blobs.STREAMS_PER_DEVICE, blobs.STREAMS), Bandwidth(door.bytes_per_s))
        self._news = asyncio.Event()
        self._tls = ServerTls(identity)
        self._runner: web.AppRunner | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renewal_look_at_s = 0.0
        self.port = 0
        """Where it listens, once it does."""
        self.plain_port: int | None = None
        """The compatibility port once it listens."""
        self.pairing = PairingDesk(identity, devices)
        self.on_report: OnReport = _nothing
        """Hears what each device says that it holds."""
        self.on_renewed: Callable[[], Awaitable[None]] = _nothing
        """Hears that the same releases were published under a new version, so as not to expire."""
        own_name = socket.gethostname().lower()
        own_names = {"localhost", own_name, f"{own_name.partition('.')[0]}.local", f"{store.repo}.local"}
        self._routes = [*self._make_routes(), *more]
        self._guard = Guard(devices, own_names, self._routes)

    async def start(self) -> list[tuple[str, int]]:
        """Listen. Gives the addresses by which devices reach it. Raises ConfigError where it cannot listen there."""
        app = web.Application(middlewares=[guard.problems, self._guard.check], client_max_size=guard.MAX_JSON_BYTES)
        app.on_response_prepare.append(guard.finish_headers)
        for route in self._routes:
            app.router.add_route(route.method, route.path, route.handler, expect_handler=guard.not_yet)
        runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # no body is more than its Content-Length says
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=2.0,
            lingering_time=LINGER_S,
        )
        await runner.setup()
        self._runner = runner
        try:
            try:
                found = await asyncio.to_thread(addresses, self._door.bind, self._door.interfaces)
            except OSError as error:
                raise _cannot_listen(self._door.bind, self._door.port, error) from error
            self._tls.renew(found)
            self.port = await self._listen(runner, self._tls.context, self._door.port)
            if self._door.plain_port is not None:
                self.plain_port = await self._listen(runner, None, self._door.plain_port)
        except BaseException:
            await self.stop()
            raise
        self._renewing = asyncio.create_task(self._renew_certificate())
        return [(host, self.port) for host in found]

    def urls(self) -> list[str]:
        """The addresses by which devices reach it now."""
        found = addresses(self._door.bind, self._door.interfaces)
        return [f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}" for host in found]

    async def stop(self) -> None:
        """Stop listening; transfers that are under way are cut after two seconds (clients resume them)."""
        runner, self._runner = self._runner, None
        self.notify()
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        for listener in self._guard.listeners:
            await listener.stop()
        if runner is not None:
            await runner.cleanup()
        self._guard.listeners.clear()

    def notify(self) -> None:
        """Wake those who wait for a new manifest. Call it in the event loop's thread after every publication."""
        self._news.set()
        self._news = asyncio.Event()

    @contextlib.contextmanager
    def beside_training(self) -> Iterator[None]:
        """Send one file at a time while the block runs; what is being sent goes on."""
        self._pace.slots.total = blobs.STREAMS_WHILE_TRAINING
        try:
            yield
        finally:
            self._pace.slots.total = blobs.STREAMS

    def revoke(self, name: str) -> Device:
        """Shut a device out, by id or label, and end what it is doing now. Raises UsageError, and StoreError where only
        that was done, and it may come back after the next start."""
        device_id = self._devices.find(name).id
        try:
            return self._devices.revoke(device_id)
        finally:
            self._guard.cut(device_id)

    def _make_routes(self) -> list[Route]:
        reading = [
            ("/v1/manifest", self._manifest, READ),
            ("/v1/blobs/sha256:{sha256:[0-9a-f]{64}}", self._blob, READ),
            ("/v1/hello", self._hello, None),
            ("/v1/root/{version:[1-9][0-9]{0,5}}", self._root, None),
        ]
        return [
            *(Route(method, path, handler, scope) for path, handler, scope in reading for method in ("GET", "HEAD")),
            Route("POST", "/v1/pair", self._pair_begin, None),
            Route("POST", "/v1/pair/qr", self._pair_by_qr, None),
            Route("POST", "/v1/pair/{pair_id:[A-Za-z0-9_-]{8,64}}/reveal", self._pair_reveal, None),
            Route("GET", "/v1/pair/{pair_id:[A-Za-z0-9_-]{8,64}}", self._pair_decision, None),
            Route("POST", "/v1/reports", self._report, READ),
            Route("DELETE", "/v1/devices/self", self._leave, ""),
            *Hub(self._store, self._pace).routes(),
            *Specification(lambda: self._routes).routes(),
        ]

    # Reading

    async def _hello(self, _: web.Request) -> web.StreamResponse:
        repo = self._store.repo
        hello = wire.Hello(
            id=repo,
            api=[wire.API_VERSION],
            label=self.label,
            pairing="open" if self.pairing.is_open else "closed",
            now=wire.utc_now(),
        )
        return _json(200, hello)

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        await self._renew_manifest()
        device_id = request[guard.DEVICE].id
        published = self._store.published_to(device_id)
        if (wait_s := _wait_s(request)) and _is_known(request, published):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)
            published = self._store.published_to(device_id)
        if published is None:
            raise web.HTTPNotFound(text="nothing has been published yet")
        headers = {"ETag": published.etag, "Cache-Control": "no-cache"}
        if _is_known(request, published):
            return web.Response(status=304, headers=headers)
        return web.Response(body=published.envelope, content_type="application/json", headers=headers)

    async def _root(self, request: web.Request) -> web.StreamResponse:
        root = await asyncio.to_thread(self._store.keys.root, int(request.match_info["version"]))
        if root is None:
            raise web.HTTPNotFound(text="there is no such root: the chain ends before it")
        return web.Response(body=root, content_type="application/json", headers={"Cache-Control": "no-cache"})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        sha256 = request.match_info["sha256"]
        published, path = self._store.published, self._store.blob(sha256)
        if published is not None and sha256 in published.withdrawn:
            raise web.HTTPGone(text="the release with this file was withdrawn; ask for the manifest again")
        if published is None or path is None or sha256 not in published.files:
            raise web.HTTPNotFound(text="no release has this file; ask for the manifest again")
        return await blobs.serve(request, path, published.files[sha256], self._pace)

    async def _report(self, request: web.Request) -> web.StreamResponse:
        report = await guard.read_json(request, wire.Report)
        release = self._store.manifest.release(report.release) if self._store.manifest else None
        if release is None or release.artifact(report.profile) is None:
            raise web.HTTPNotFound(text="no such release is listed for this profile")
        self._devices.note_report(request[guard.DEVICE], report)
        await self.on_report(request[guard.DEVICE], report)
        return web.Response(status=204)

    # Being let in and leaving

    async def _pair_by_qr(self, request: web.Request) -> web.StreamResponse:
        asked = await guard.read_json(_over_tls(request), pairing.ByQr)
        with _refusals():
            device, token = self.pairing.by_secret(asked.secret, asked.label, asked.platform, _asker(request))
        return self._granted(device, token)

    async def _pair_begin(self, request: web.Request) -> web.StreamResponse:
        asked = await guard.read_json(_over_tls(request), pairing.Begin)
        with _refusals():
            attempt = self.pairing.begin(asked.label, asked.platform, asked.commit, _asker(request))
        begun = pairing.Begun(pair_id=attempt.pair_id, nonce_s=attempt.nonce_s.hex(), expires_s=pairing.PAIR_EXPIRES_S)
        return _json(201, begun)

    async def _pair_reveal(self, request: web.Request) -> web.StreamResponse:
        asked = await guard.read_json(_over_tls(request), pairing.Reveal)
        with _refusals():
            self.pairing.reveal(request.match_info["pair_id"], bytes.fromhex(asked.nonce_c))
        return web.Response(status=204)

    async def _pair_decision(self, request: web.Request) -> web.StreamResponse:
        with _refusals():
            granted = await self.pairing.decision(_over_tls(request).match_info["pair_id"], LONGEST_WAIT_S)
        return web.Response(status=202) if granted is None else self._granted(*granted)

    async def _leave(self, request: web.Request) -> web.StreamResponse:
        device_id = request[guard.DEVICE].id
        asyncio.get_running_loop().call_later(ANSWERED_S, self._guard.cut, device_id)
        self._devices.revoke(device_id)
        return web.Response(status=204, headers={"Connection": "close"})

    def _granted(self, device: Device, token: str) -> web.Response:
        granted = pairing.Granted(
            id=self._store.repo,
            label=self.label,
            device_id=device.id,
            token=token,
            root_key=self.root_key,
            manifest_version=self._store.version,
        )
        return _json(200, granted)

    # Plumbing

    @property
    def root_key(self) -> str:
        """What tells a device who may sign manifests; it is told at pairing."""
        return self._store.keys.root_key

    @property
    def label(self) -> str:
        """The name that devices show."""
        return label_or_default(self._door.label, self._store.repo)

    async def _listen(self, runner: web.AppRunner, context: ssl.SSLContext | None, port: int) -> int:
        assert runner.server is not None
        listener = Listener(runner.server, context)
        try:
            bound = await listener.start(self._door.bind, port)
        except OSError as error:
            raise _cannot_listen(self._door.bind, port, error) from error
        self._guard.listeners.append(listener)
        return bound

    async def _renew_manifest(self) -> None:
        if time.monotonic() < self._renewal_look_at_s:
            return
        self._renewal_look_at_s = time.monotonic() + RENEWAL_LOOK_S
        with contextlib.suppress(StoreError):  # then the old one is served, which is still good for weeks
            if await asyncio.to_thread(self._store.renew):
                await self.on_renewed()

    async def _renew_certificate(self) -> None:
        """Addresses change and a year passes."""
        while True:
            await asyncio.sleep(ADDRESSES_POLL_S)
            with contextlib.suppress(OSError):
                self._tls.renew(await asyncio.to_thread(addresses, self._door.bind, self._door.interfaces))


async def _nothing(*_: object) -> None:
    """Nobody listens."""


def _is_known(request: web.Request, published: Published | None) -> bool:
    """The asker has this manifest already; an asker who knows of none has the empty state."""
    if published is None:
        return "If-None-Match" not in request.headers
    return blobs.none_match(request, published.etag)


def _wait_s(request: web.Request) -> float:
    match = _WAIT.search(request.headers.get("Prefer", ""))
    return min(float(match[1]), LONGEST_WAIT_S) if match else 0.0


def _json(status: int, model: wire.Wire | pairing.Begun | pairing.Granted) -> web.Response:
    body = model.model_dump_json(exclude_none=True).encode()
    return web.Response(
        status=status, body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _over_tls(request: web.Request) -> web.Request:
    if not request.secure:
        raise web.HTTPForbidden(text="devices are let in over TLS only")
    return request


def _asker(request: web.Request) -> str:
    return neighbour(request.remote or "")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        headers = {"Retry-After": str(refusal.wait_s)} if refusal.wait_s else None
        raise _STATUSES[refusal.status](text=refusal.detail, headers=headers) from refusal


_STATUSES: dict[int, Callable[..., web.HTTPException]] = {
    403: web.HTTPForbidden,
    409: web.HTTPConflict,
    410: web.HTTPGone,
    429: web.HTTPTooManyRequests,
}


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
