"""Letting devices in: a window that is closed until the user opens it, for one device, for five minutes.

Either the device shows the secret of the QR code, or it is compared by six digits (idiolect/pairing.py has both
formulas). An attempt at comparing keeps its place until it expires, also when it was broken off: who could try as
often as it likes would at last find nonces whose digits agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from daemon.sync.devices import READ, RECORD, Device, Devices, one_line
from daemon.sync.identity import Identity
from daemon.sync.limits import RateLimit
from idiolect.errors import UsageError
from idiolect.pairing import MAX_ADDRESSES, NONCE_BYTES, PAIR_EXPIRES_S, Invitation, commitment, six_digits

OPEN_S = 300.0
MAX_PENDING = 3
ATTEMPTS_PER_HOUR = 10
SCOPES = frozenset({READ, RECORD})
State = Literal["committed", "revealed", "granted", "refused"]


class Refusal(Exception):
    """Why a device is not let in: the HTTP status, and what to tell it."""

    def __init__(self, status: int, detail: str, wait_s: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.wait_s = wait_s


@dataclass
class Attempt:
    """One device that compares digits. `digits` is empty until it has revealed its nonce."""

    pair_id: str
    label: str
    platform: str
    commit: str
    expires_s: float
    nonce_s: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES))
    state: State = "committed"
    digits: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class PairingDesk:
    """One machine's window. `clock` gives seconds that only rise."""

    def __init__(self, identity: Identity, devices: Devices, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._devices = devices
        self._clock = clock
        self._open_until_s = 0.0
        self._secret = ""
        self._attempts: dict[str, Attempt] = {}
        self._by_address = RateLimit(ATTEMPTS_PER_HOUR, 3600)
        self.last: Device | None = None
        """Whom the window that was opened last has let in."""

    @property
    def is_open(self) -> bool:
        """Whether a device may ask to be let in."""
        return self._clock() < self._open_until_s

    @property
    def left_s(self) -> int:
        """For how long it stays open."""
        return max(0, round(self._open_until_s - self._clock()))

    def open(self, repo: str, addresses: Sequence[str], root_key: str = "") -> Invitation:
        """Open the window anew; what was shown before no longer counts."""
        secret = secrets.token_urlsafe(16)
        shown = sorted(addresses, key=lambda url: "[" in url)[:MAX_ADDRESSES]  # IPv6 has many, and they change
        invitation = Invitation(
            id=repo, addresses=tuple(shown), pin=self._identity.pin, secret=secret, root_key=root_key
        )
        self._secret, self._open_until_s, self.last = secret, self._clock() + OPEN_S, None
        return invitation

    def close(self) -> None:
        """Let nobody in any more."""
        self._open_until_s, self._secret = 0.0, ""

    # What devices ask

    def by_secret(self, secret: str, label: str, platform: str, address: str) -> tuple[Device, str]:
        """Let in who shows the secret. It opens once."""
        self._refuse_closed()
        self._refuse_flood(address)
        if not self._secret or not hmac.compare_digest(secret.encode(), self._secret.encode()):
            raise Refusal(403, "this code is not, or no longer, good; show a new one")
        return self._let_in(label, platform)

    def begin(self, label: str, platform: str, commit: str, address: str) -> Attempt:
        """Take note of who wants to compare digits."""
        self._refuse_closed()
        self._forget_expired()
        if len(self._attempts) >= MAX_PENDING:
            raise Refusal(429, "too many devices are asking already", PAIR_EXPIRES_S)
        self._refuse_flood(address)
        names = one_line(label), one_line(platform)
        attempt = Attempt(secrets.token_urlsafe(12), *names, commit, self._clock() + PAIR_EXPIRES_S)
        self._attempts[attempt.pair_id] = attempt
        return attempt

    def reveal(self, pair_id: str, nonce_c: bytes) -> None:
        """Check the nonce against what was committed to; from now on the user may compare."""
        attempt = self._attempt(pair_id)
        if attempt.state != "committed" or not hmac.compare_digest(commitment(nonce_c), attempt.commit):
            self._decide(attempt, "refused")
            raise Refusal(409, "this is not what was committed to; begin again")
        attempt.state = "revealed"
        attempt.digits = six_digits(self._identity.spki, nonce_c, attempt.nonce_s)

    async def decision(self, pair_id: str, wait_s: float) -> tuple[Device, str] | None:
        """What the user decided: the device and its token, once; None where nothing was decided within `wait_s`."""
        attempt = self._attempt(pair_id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(attempt.changed.wait(), min(wait_s, max(0.0, attempt.expires_s - self._clock())))
        if attempt.state == "refused":
            raise Refusal(403, "the digits were not agreed to")
        if attempt.state != "granted":
            self._attempt(pair_id)
            return None
        if self._attempts.pop(pair_id, None) is None:
            raise Refusal(410, "the token was told already")
        return self._let_in(attempt.label, attempt.platform)

    # What the user decides

    def to_compare(self) -> list[Attempt]:
        """Those whose digits can be compared now."""
        self._forget_expired()
        return [attempt for attempt in self._attempts.values() if attempt.state == "revealed" and self.is_open]

    def decide(self, pair_id: str, *, agreed: bool) -> None:
        """The user has compared the digits. Raises UsageError where the attempt is over."""
        if pair_id not in {attempt.pair_id for attempt in self.to_compare()}:
            raise UsageError("this device no longer waits for an answer", "let it ask again")
        self._decide(self._attempts[pair_id], "granted" if agreed else "refused")
        if agreed:
            self.close()

    def _decide(self, attempt: Attempt, state: State) -> None:
        attempt.state = state
        attempt.changed.set()

    def _let_in(self, label: str, platform: str) -> tuple[Device, str]:
        self.close()
        self.last, token = self._devices.add(label, platform, SCOPES)
        return self.last, token

    def _attempt(self, pair_id: str) -> Attempt:
        self._forget_expired()
        if pair_id not in self._attempts:
            raise Refusal(410, "this attempt is over; begin again")
        return self._attempts[pair_id]

    def _forget_expired(self) -> None:
        now_s = self._clock()
        self._attempts = {key: each for key, each in self._attempts.items() if now_s < each.expires_s}

    def _refuse_closed(self) -> None:
        if not self.is_open:
            raise Refusal(403, "nobody is let in now; run `idiolect pair` on this computer")

    def _refuse_flood(self, address: str) -> None:
        if wait_s := self._by_address.wait_s(address):
            raise Refusal(429, "too many attempts from your address", wait_s)
        self._by_address.note(address)
