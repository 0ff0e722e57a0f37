"""Being found: the service's name, address and manifest version on the local network (mDNS, `_idiolect._tcp`)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from idiolect.wire import API_VERSION, SERVICE_TYPE

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

POLL_S = 10.0
CANNOT_ANNOUNCE = "cannot announce the service on the network"
MAX_LABEL_BYTES = 63  # of one part of a DNS name

_log = logging.getLogger(__name__)
_NOT_OURS = re.compile(r"(docker|br-|veth|virbr|vmnet|vboxnet|tun|tap|wg|tailscale|zt|utun|awdl|llw|ppp)")


def addresses(bind: str, interfaces: Sequence[str] = ()) -> list[str]:
    """The IP addresses by which devices reach a server that is bound to `bind`.

    For a wildcard: this machine's private IPv4 and unique local or global IPv6 addresses on `interfaces` (names;
    default: those of no tunnel, bridge or virtual machine), or the loopback address where there is none.
    """
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(bind, None, type=socket.SOCK_STREAM)}
        return sorted(found, key=lambda ip: (":" in ip, ip))
    if not address.is_unspecified:
        return [bind]
    return _own_addresses(interfaces, with_ipv6=address.version == 6) or ["127.0.0.1"]


def label_or_default(label: str, repo: str) -> str:
    """The name people see: the user's own, cut to what DNS takes, else one that gives away nothing."""
    # A dot would end the name: zeroconf writes names without escapes.
    plain = " ".join("".join(c if c.isprintable() and c != "." else " " for c in label).split())
    return plain.encode()[:MAX_LABEL_BYTES].decode(errors="ignore").strip() or f"idiolect-{repo[:4]}"


class Advertisement:
    """Announces a server that is bound to `bind` and listens on `port`. What fails here is a warning, never an end."""

    def __init__(
        self,
        repo: str,
        label: str,
        bind: str,
        port: int,
        version: int,
        *,
        plain_port: int | None = None,
        interfaces: Sequence[str] = (),
    ) -> None:
        self._plain_port = plain_port
        self._interfaces = interfaces
        self._repo = repo
        self._label = label_or_default(label, repo)
        self._bind = bind
        self._port = port
        self._version = version
        self._addresses: list[str] = []
        self._told = ""
        self.on_announced: Callable[[], None] = lambda: None
        """Called whenever an announcement went well."""
        self._zeroconf: AsyncZeroconf | None = None
        self._info: ServiceInfo | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str | None:
        """Announce, and again whenever this machine's addresses change. Takes about two seconds, because names in use
        are looked for first. Gives a warning for the user where it failed."""
        warning = await self._announce()
        self._watch = asyncio.create_task(self._follow_addresses())
        return warning

    async def update(self, version: int) -> None:
        """Tell the network that there is a new manifest."""
        self._version = version
        if self._zeroconf is None or self._info is None:
            return
        self._info = self._service(self._info.name)
        with contextlib.suppress(*_failures()):
            await (await self._zeroconf.async_update_service(self._info))

    async def stop(self) -> None:
        """Say goodbye to the network."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        await self._withdraw()

    async def _announce(self) -> str | None:
        from zeroconf.asyncio import AsyncZeroconf

        try:
            self._addresses = await asyncio.to_thread(addresses, self._bind, self._interfaces)
            self._zeroconf = AsyncZeroconf(interfaces=list(self._addresses))
            info = self._service(f"{self._label}.{SERVICE_TYPE}")
            await (await self._zeroconf.async_register_service(info, allow_name_change=True))
        except _failures() as error:
            await self._withdraw()
            self._addresses = []  # so that it is tried again
            warning = (
                f"{CANNOT_ANNOUNCE} ({type(error).__name__}: {error}); "
                "devices can still pull with its address: idiolect pull --url https://ADDRESS:PORT"
            )
            if warning != self._told:
                _log.warning("%s", warning)
            self._told = warning
            return warning
        self._info, self._told = info, ""
        self.on_announced()
        return None

    async def _withdraw(self) -> None:
        zeroconf, self._zeroconf, self._info = self._zeroconf, None, None
        if zeroconf is not None:
            with contextlib.suppress(*_failures()):
                await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()

    async def _follow_addresses(self) -> None:
        """A laptop changes networks and an interface can come up late: announce anew."""
        before = self._addresses
        while True:
            await asyncio.sleep(POLL_S)
            with contextlib.suppress(OSError):
                found = await asyncio.to_thread(addresses, self._bind, self._interfaces)
                # Twice the same, as an interface that is coming up has its addresses one after the other.
                if found == before != self._addresses:
                    await self._withdraw()
                    await self._announce()
                before = found

    def _service(self, name: str) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE_TYPE,
            name,
            port=self._port,
            properties=self._texts(),
            server=f"{self._repo}.local.",
            parsed_addresses=self._addresses,
        )

    def _texts(self) -> dict[str, str]:
        texts = {"txtvers": "1", "id": self._repo, "api": str(API_VERSION), "mv": str(self._version), "tls": "1"}
        return texts | ({"hp": str(self._plain_port)} if self._plain_port else {})


def _failures() -> tuple[type[Exception], ...]:
    import zeroconf

    return (OSError, RuntimeError, ValueError, zeroconf.Error)


def _own_addresses(interfaces: Sequence[str], *, with_ipv6: bool) -> list[str]:
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        if adapter.nice_name not in interfaces if interfaces else _NOT_OURS.match(adapter.nice_name):
            continue
        for entry in adapter.ips:
            address = ipaddress.ip_address(entry.ip[0] if isinstance(entry.ip, tuple) else entry.ip)
            if address.is_loopback or address.is_link_local:
                continue
            if address.is_private if address.version == 4 else with_ipv6:
                found.append(str(address))
    return sorted(found, key=lambda ip: (":" in ip, ip))
