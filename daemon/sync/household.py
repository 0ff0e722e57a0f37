"""What the user decides about devices, as commands to the running daemon: list, shut out, let in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from daemon.sync.devices import READ, describe
from daemon.sync.page import PairingPage
from idiolect.errors import IdiolectError, UsageError
from idiolect.pairing import Pairing, Pairings, own_platform

if TYPE_CHECKING:
    from daemon.rooms import Rooms
    from daemon.sync.server import Server

THIS_COMPUTER = "this computer"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


class Household:
    """The devices of one home, whose `server` runs."""

    def __init__(self, rooms: Rooms, server: Server) -> None:
        self._rooms = rooms
        self._server = server
        self._page = PairingPage(server.pairing)

    def pair_this_computer(self) -> None:
        """Let this user's own commands pull without asking: who can read the key here needs no pairing."""
        here = _LOOPBACK.get(self._rooms.config.server.bind)  # an address of the network may be another tomorrow
        urls = (*([f"https://{here}:{self._server.port}"] if here else []), *self._server.urls())
        devices, pairings, repo = self._rooms.devices, Pairings(self._rooms.paths.pairings), self._rooms.store.repo
        with contextlib.suppress(IdiolectError):
            known = next((each for each in pairings.all() if each.id == repo), None)
            if known and known.pin == self._rooms.identity.pin and devices.by_token(known.token):
                now = {"urls": urls, "label": self._server.label, "root_key": self._server.root_key}
                pairings.save(known.model_copy(update=now))
                return
        for old in devices.all():
            if old.label == THIS_COMPUTER and old.platform == own_platform() and old.revoked_s is None:
                devices.revoke(old.id)
        device, token = devices.add(THIS_COMPUTER, own_platform(), frozenset({READ}))
        pairings.save(
            Pairing(
                id=repo,
                label=self._server.label,
                pin=self._rooms.identity.pin,
                token=token,
                device_id=device.id,
                root_key=self._server.root_key,
                urls=urls,
            )
        )

    async def command(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Answer `devices`, `revoke` {name} or `pair` {action, …}. Raises UsageError."""
        if command == "devices":
            return {"devices": self._rooms.devices.describe()}
        if command == "revoke":
            device = self._server.revoke(str(arguments.get("name", "")))
            with contextlib.suppress(IdiolectError):  # it is shut out, whatever it was pinned to
                self._rooms.store.unpin(device.id)
            return {"device": describe([device])[0]}
        actions = {"look": self._look, "decide": self._decide, "close": self._close, "plain": self._plain}
        name = str(arguments.pop("action", ""))
        if name == "open":
            return await self._open()
        if name not in actions:
            raise UsageError("no such step of pairing", f"known: open, {', '.join(actions)}")
        return actions[name](arguments)

    async def stop(self) -> None:
        """Close the window."""
        self._server.pairing.close()
        await self._page.hide()

    async def _open(self) -> dict[str, Any]:
        urls = self._server.urls()
        addresses = [urlsplit(url).netloc for url in urls]
        invitation = self._server.pairing.open(self._rooms.store.repo, addresses, self._server.root_key)
        page = ""
        with contextlib.suppress(OSError):  # the code is there without it
            page = await self._page.show(invitation.uri())
        return {"uri": invitation.uri(), "urls": urls, "page": page, **self._look({})}

    def _look(self, _: dict[str, Any]) -> dict[str, Any]:
        desk = self._server.pairing
        asking = [
            {"pair_id": each.pair_id, "label": each.label, "platform": each.platform, "digits": each.digits}
            for each in desk.to_compare()
        ]
        return {
            "open": desk.is_open,
            "left_s": desk.left_s,
            "asking": asking,
            "paired": describe([desk.last])[0] if desk.last else None,
        }

    def _decide(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._server.pairing.decide(str(arguments.get("pair_id", "")), agreed=arguments.get("agreed") is True)
        return self._look({})

    def _close(self, _: dict[str, Any]) -> dict[str, Any]:
        self._server.pairing.close()
        return self._look({})

    def _plain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._server.plain_port is None:
            raise UsageError("the port without encryption is off", "[server] plain_port = 8738 in config.toml opens it")
        label = str(arguments.get("label", ""))
        device, token = self._rooms.devices.add(label, "plain", frozenset({READ}), compat=True)
        hosts = [urlsplit(url).hostname or "" for url in self._server.urls()]
        urls = [f"http://{f'[{host}]' if ':' in host else host}:{self._server.plain_port}" for host in hosts]
        return {"device": describe([device])[0], "token": token, "urls": urls}
