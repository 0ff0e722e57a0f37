"""Talks to systemd, or whoever started the daemon and set NOTIFY_SOCKET (sd_notify(3)): READY, WATCHDOG, STOPPING."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
PID_VARIABLE = "WATCHDOG_PID"


def tell(state: str) -> None:
    """Send `state`, as in "READY=1"; nothing happens where nobody listens."""
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)  # a supervisor that does not read must not stop the daemon
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
        connection.send(state.encode())


def ready() -> None:
    """The daemon works; also the end of a `reloading`."""
    tell("READY=1")


def reloading() -> None:
    """The daemon reads its settings again."""
    tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The daemon ends."""
    tell("STOPPING=1")


def watchdog_s() -> float | None:
    """How often to say WATCHDOG=1: half of what the supervisor allows; None where it does not ask for it."""
    allowed, pid = os.environ.get(WATCHDOG_VARIABLE, ""), os.environ.get(PID_VARIABLE, "")
    if not allowed.isdecimal() or not int(allowed) or (pid and pid != str(os.getpid())):
        return None
    return int(allowed) / 2e6


async def keep_alive(every_s: float) -> None:
    """Say that this event loop still turns, until cancelled."""
    while True:
        tell("WATCHDOG=1")
        await asyncio.sleep(every_s)
