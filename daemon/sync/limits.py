"""How often, how many at once and how fast: the counters behind refusals and pauses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import Counter, deque
from collections.abc import Iterator

MAX_KEYS = 4096


class RateLimit:
    """At most `times` notes for each key within `within_s` seconds."""

    def __init__(self, times: int, within_s: float) -> None:
        self._times = times
        self._within_s = within_s
        self._notes: dict[str, deque[float]] = {}

    def wait_s(self, key: str) -> int:
        """Seconds until the next one is welcome; 0: now."""
        notes = self._notes.get(key)
        if not notes or len(notes) < self._times:
            return 0
        return max(0, math.ceil(notes[0] + self._within_s - time.monotonic()))

    def note(self, key: str) -> None:
        """Count one."""
        if len(self._notes) >= MAX_KEYS:  # many addresses: only what still counts is kept, the newest first
            since_s = time.monotonic() - self._within_s
            kept = [(each, notes) for each, notes in self._notes.items() if notes[-1] > since_s]
            self._notes = dict(kept[-MAX_KEYS // 2 :])
        self._notes.setdefault(key, deque(maxlen=self._times)).append(time.monotonic())


class Slots:
    """At most `each` places for one key and `total` for all."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self.total = total
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(self, key: str) -> Iterator[bool]:
        """Hold a place while the block runs; False, and none held, where all are taken."""
        free = self._taken[key] < self._each and self._taken.total() < self.total
        self._taken[key] += free
        try:
            yield free
        finally:
            self._taken[key] -= free
            self._taken += Counter()  # forgets who holds none


class Bandwidth:
    """A token bucket that holds one second's worth of `bytes_per_s`; 0: no limit."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        """Return when so many bytes may be sent."""
        if not self._bytes_per_s:
            return
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s - 1.0) + size_bytes / self._bytes_per_s
        await asyncio.sleep(self._free_at_s - now_s)


def neighbour(address: str) -> str:
    """What counts as one asker: an IPv4 address, or the /64 network in which a machine chooses its IPv6 addresses."""
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address):
            return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return address
