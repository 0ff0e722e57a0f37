"""Getting let in once, and what is kept of it: by a QR code's text, or by comparing six digits on both sides.

The QR code carries the service's key pin and a one-time secret, so nobody in between can pose as the service. Without
a camera the device takes whichever key it sees and commits to a nonce; the six digits depend on that key and on both
nonces, and whoever sits in between has committed before it knows the other half, so that it can only guess.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idiolect import connection as connections
from idiolect.connection import Connection
from idiolect.errors import NotPaired, SyncError, UsageError, VerificationFailed
from idiolect.files import write_text
from idiolect.wire import RepoId

SAS_DOMAIN = b"idiolect-sas-v1"
MAX_ADDRESSES = 8
NONCE_BYTES = 32
PAIR_EXPIRES_S = 120
LONG_POLL_S = 25.0
MAX_ANSWER_BYTES = 64 * 1024
URLS_KEPT = 8

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=40)]
Pin = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
_Model = TypeVar("_Model", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ByQr(_Body):
    """POST /v1/pair/qr: the secret that the QR code showed."""

    secret: Annotated[str, Field(min_length=16, max_length=64)]
    label: Label
    platform: Label = "unknown"


class Begin(_Body):
    """POST /v1/pair: `commit` is the SHA-256 of the device's nonce, in hex."""

    commit: Hex32
    label: Label
    platform: Label = "unknown"


class Reveal(_Body):
    """POST /v1/pair/{pair_id}/reveal: the nonce that was committed to, in hex."""

    nonce_c: Hex32


class Begun(BaseModel):
    """What the service answers to Begin."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pair_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    nonce_s: Hex32
    expires_s: Annotated[int, Field(ge=1, le=3600)]


class Granted(BaseModel):
    """What a device is let in with; the token is told this once. `root_key` verifies who may sign manifests."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: RepoId
    label: str = ""
    device_id: str
    token: Annotated[str, Field(pattern=r"^idl_[A-Za-z0-9_-]{43}$", repr=False)]
    root_key: str = ""
    manifest_version: int = 0


class Invitation(BaseModel):
    """What the QR code says."""

    model_config = ConfigDict(frozen=True)

    id: RepoId
    addresses: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_ADDRESSES)]
    pin: Pin
    secret: Annotated[str, Field(min_length=16, max_length=64, repr=False)]
    root_key: str = ""

    def uri(self) -> str:
        """As the text of a QR code."""
        fields = [("v", "1"), ("id", self.id), *(("h", address) for address in self.addresses), ("pin", self.pin)]
        fields += [("k", self.root_key)] if self.root_key else []
        return "idiolect://pair?" + urlencode([*fields, ("s", self.secret)], safe=":[]")

    @classmethod
    def parse(cls, uri: str) -> Invitation:
        """Read such a text. Raises UsageError."""
        try:
            parts = urlsplit(uri.strip())
            fields = parse_qs(parts.query, strict_parsing=True)
            if (parts.scheme, parts.netloc, fields["v"]) != ("idiolect", "pair", ["1"]):
                raise ValueError("another kind of code")
            one = {"root_key": fields.get("k", [""])[0], "secret": fields["s"][0], "pin": fields["pin"][0]}
            return cls(id=fields["id"][0], addresses=tuple(fields["h"]), **one)
        except (ValueError, KeyError) as error:
            begun = uri.strip().startswith("idiolect://pair?")
            raise UsageError(
                "this text of a pairing code is not whole, or for another idiolect"
                if begun
                else "this is not the text of a pairing code",
                "it begins with idiolect://pair?v=1 and has &s= near its end; copy all of it, in quotes",
            ) from error


class Pairing(BaseModel):
    """What a device keeps of a service. `urls` are its addresses, the one that worked last first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: RepoId
    label: str = ""
    pin: Pin
    token: Annotated[str, Field(repr=False)]
    device_id: str = ""
    root_key: str = ""
    urls: tuple[str, ...] = ()

    def connection(self) -> Connection:
        """To the address that worked last."""
        return Connection(self.urls[0] if self.urls else "", self.pin, self.token)

    def known_at(self, url: str) -> Pairing:
        """The same with `url` as the newest address."""
        return self.model_copy(update={"urls": (url, *(old for old in self.urls if old != url))[:URLS_KEPT]})


class Pairings:
    """The services that this user is paired with, a file (0600) each in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()

    def all(self) -> list[Pairing]:
        """Every one, by id. Raises SyncError for a file that cannot be read."""
        return [self._load(path) for path in sorted(self._folder.glob("*.json"))]

    def save(self, pairing: Pairing) -> None:
        """Keep `pairing` in place of any other with the same service."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(self._folder / f"{pairing.id}.json", pairing.model_dump_json(indent=1) + "\n", mode=0o600)

    def choose(self, name: str = "", url: str = "") -> Pairing:
        """The service called `name` (id or label), else the one whose key answers at `url`, else the only one.

        Raises NotPaired, or UsageError where that leaves several.
        """
        found = self.all()
        if name:
            found = [each for each in found if name in {each.id, each.label}]
        elif url and len(found) > 1:
            pin = connections.pin_of(connections.shown_key(url, 10.0))
            found = [each for each in found if each.pin == pin]
        if not found:
            raise NotPaired(
                f"this device is not paired with {name or url or 'any service'}",
                "on the other computer run `idiolect pair`, then here: idiolect pull --pair 'TEXT OF ITS CODE' …",
            )
        if len(found) > 1:
            names = ", ".join(f"{each.label} ({each.id})" for each in found)
            raise UsageError(f"this device is paired with several services: {names}", "choose one: --service LABEL")
        return found[0]

    def _load(self, path: Path) -> Pairing:
        try:
            return Pairing.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SyncError(f"{path} cannot be read", "remove it and pair again") from error


def default_folder() -> Path:
    """Where this user's pairings lie: below $IDIOLECT_HOME, else where the operating system wants such files."""
    if home := os.environ.get("IDIOLECT_HOME"):
        return Path(home) / "state" / "pairings"
    import platformdirs

    return platformdirs.user_state_path("idiolect", appauthor=False) / "pairings"


def commitment(nonce: bytes) -> str:
    """What is told of a nonce before the nonce itself."""
    return hashlib.sha256(nonce).hexdigest()


def six_digits(spki: bytes, nonce_c: bytes, nonce_s: bytes) -> str:
    """What both sides show: SHA-256("idiolect-sas-v1" || spki || nonce_c || nonce_s), its first 8 bytes mod 10^6."""
    digest = hashlib.sha256(SAS_DOMAIN + spki + nonce_c + nonce_s).digest()
    return f"{int.from_bytes(digest[:8], 'big') % 1_000_000:06d}"


def scan(text: str, *, label: str = "", timeout_s: float = 10.0) -> Pairing:
    """Pair by the text of a QR code. Raises UsageError, TransferFailed, VerificationFailed, NotPaired (refused)."""
    invitation = Invitation.parse(text)
    urls = [f"https://{address}" for address in invitation.addresses]
    connection = connections.reach(Connection(urls[0], invitation.pin), urls, timeout_s)
    body = ByQr(secret=invitation.secret, label=label or own_label(), platform=own_platform())
    granted = _read(Granted, _ask(connection, "/v1/pair/qr", body, timeout_s))
    if granted.id != invitation.id:
        raise VerificationFailed(f"the code is of service {invitation.id}, {granted.id} answers", "scan a new code")
    return _kept(granted, connection, invitation.root_key or granted.root_key, urls)


def join(url: str, on_digits: Callable[[str], None], *, label: str = "", timeout_s: float = 10.0) -> Pairing:
    """Pair with whoever answers at `url`, once its user has seen the digits that `on_digits` is given, and agreed.

    Raises as `scan`; NotPaired also where nobody agreed in time.
    """
    spki = connections.shown_key(url, timeout_s)
    connection = Connection(url, connections.pin_of(spki))
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = Begin(commit=commitment(nonce), label=label or own_label(), platform=own_platform())
    begun = _read(Begun, _ask(connection, "/v1/pair", body, timeout_s))
    _ask(connection, f"/v1/pair/{begun.pair_id}/reveal", Reveal(nonce_c=nonce.hex()), timeout_s)
    on_digits(six_digits(spki, nonce, bytes.fromhex(begun.nonce_s)))
    until_s = time.monotonic() + begun.expires_s
    while time.monotonic() < until_s:
        if answer := _ask(connection, f"/v1/pair/{begun.pair_id}", None, LONG_POLL_S + timeout_s):
            granted = _read(Granted, answer)
            return _kept(granted, connection, granted.root_key, [])
    raise NotPaired("nobody agreed to the digits in time", "run `idiolect pair` there and try again")


def own_label() -> str:
    """What this machine is called in the list of devices."""
    return socket.gethostname()[:40] or "computer"


def own_platform() -> str:
    """The operating system, as in the list of devices."""
    import platform

    return (platform.system() or "unknown").lower()[:40]


def _ask(connection: Connection, path: str, body: BaseModel | None, timeout_s: float) -> bytes:
    """GET, or POST where there is a body; b"" where the answer is that there is none yet."""
    sent = body.model_dump_json().encode() if body else None
    headers = {"Content-Type": "application/json"} if body else {}
    method = "POST" if body else "GET"
    try:
        with connection.request(path, method=method, headers=headers, body=sent, timeout_s=timeout_s) as response:
            answer, status = response.read(MAX_ANSWER_BYTES), response.status
    except (OSError, http.client.HTTPException) as error:
        raise connections.no_answer(connection.url, error) from error
    if status in {200, 201}:
        return answer
    if status in {202, 204}:
        return b""
    detail = ""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        detail = str(json.loads(answer).get("detail", ""))
    raise NotPaired(f"{connection.url} did not let this device in: {detail or status}", "run `idiolect pair` there")


def _read(model: type[_Model], answer: bytes) -> _Model:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise VerificationFailed("what answers does not speak as idiolect does", "another program there?") from error


def _kept(granted: Granted, connection: Connection, root_key: str, urls: Sequence[str]) -> Pairing:
    kept = Pairing(
        id=granted.id,
        label=granted.label,
        pin=connection.pin,
        token=granted.token,
        device_id=granted.device_id,
        root_key=root_key,
        urls=tuple(urls),
    )
    return kept.known_at(connection.url)
