"""Speaking with one service: TLS to the very key that was pinned at pairing, and this device's token.

No authority has signed the service's certificate, and its addresses change; what stays is its key. So neither name nor
signature of the certificate is looked at, only the SHA-256 of its SubjectPublicKeyInfo (RFC 7469's pin), and that
before the first byte of a request is sent.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import queue
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, urlsplit

from idiolect.errors import ServiceNotFound, SyncError, TransferFailed, UsageError, VerificationFailed

FIXED_HEADERS = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "idiolect"}

MAX_ADDRESSES = 32
"""So many are tried at most: anybody may announce thousands under the service's name."""

_Event = tuple[str, str, SyncError | None]


@dataclass(frozen=True)
class Connection:
    """The service at `url` (https), which must show the key with `pin`. Every request is a connection of its own."""

    url: str
    pin: str
    token: str = field(default="", repr=False)

    def at(self, url: str) -> Connection:
        """The same service at another address."""
        return replace(self, url=url)

    @contextlib.contextmanager
    def request(
        self,
        path: str,
        *,
        timeout_s: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask for `path` and give the answer, whose body is still to be read.

        `timeout_s` bounds each single wait. Raises VerificationFailed where another key answers, UsageError for an
        address that is none, OSError and HTTPException where the connection breaks.
        """
        target = split(self.url)
        connection = _Pinned(target, self.pin, timeout_s)
        sent = FIXED_HEADERS | dict(headers or {})
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, target.path.rstrip("/") + path, body=body, headers=sent)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def check(self, timeout_s: float) -> None:
        """Connect, look at the key, leave. Raises as `request`."""
        connection = _Pinned(split(self.url), self.pin, timeout_s)
        try:
            connection.connect()
        finally:
            connection.close()


def pin_of(spki: bytes) -> str:
    """The pin of a key: base64url of the SHA-256 of its SubjectPublicKeyInfo (DER), without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).rstrip(b"=").decode()


def id_of(spki: bytes) -> str:
    """The name of a service: the first 60 bits of the same digest as 12 lower-case base32 characters."""
    return base64.b32encode(hashlib.sha256(spki).digest())[:12].decode().lower()


def shown_key(url: str, timeout_s: float) -> bytes:
    """The SubjectPublicKeyInfo (DER) of the key that answers at `url`, whoever that is. Raises TransferFailed."""
    connection = _Pinned(split(url), None, timeout_s)
    try:
        connection.connect()
        return connection.spki
    except OSError as error:
        raise no_answer(url, error) from error
    finally:
        connection.close()


def reach(
    connection: Connection, urls: Iterable[str], timeout_s: float, done: threading.Event | None = None
) -> Connection:
    """`connection` at the first of `urls` where its key answers; all are tried at once, as `urls` brings them forth.

    `done` is set at the end: whatever `urls` waits for may then stop waiting. Raises the last failure, or
    ServiceNotFound where there is no address at all.
    """
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()

    def collect() -> None:
        failure = None
        try:
            for url in urls:
                events.put(("found", url, None))
        except SyncError as error:
            failure = error
        events.put(("no more", "", failure))

    def attempt(url: str) -> None:
        events.put(("tried", url, _failure(connection.at(url), timeout_s)))

    _start(collect)
    try:
        return connection.at(_first_reached(events, lambda url: _start(attempt, url)))
    finally:
        if done is not None:
            done.set()


def no_answer(url: str, error: Exception) -> TransferFailed:
    """What to tell the user of a connection that broke with `error`."""
    return TransferFailed(
        f"{url} does not answer: {reason(error)}", "is `idiolect run` running there, in this network?"
    )


def retry_after_s(response: http.client.HTTPResponse) -> float | None:
    """Seconds after which the service wants to be asked again; None where it does not say, or names a date."""
    wait = response.headers.get("Retry-After", "")
    return float(wait[:9]) if wait.isascii() and wait.isdecimal() else None


def reason(error: Exception) -> str:
    """Why a connection broke, without the error's number."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def split(url: str) -> SplitResult:
    """The parts of a service's address. Raises UsageError for anything but https://HOST[:PORT]."""
    with contextlib.suppress(ValueError):
        target = urlsplit(url)
        if target.scheme == "https" and target.hostname and target.port != 0:
            return target
    raise UsageError(f"{url!r} is not the address of a service", "expected something like https://192.168.1.20:8737")


def _first_reached(events: queue.SimpleQueue[_Event], start: Callable[[str], None]) -> str:
    seen: set[str] = set()
    waiting_for = 1
    last: SyncError = ServiceNotFound("no address of the service is known", "give one: --url https://ADDRESS:8737")
    while waiting_for:
        what, url, failure = events.get()
        if what == "tried" and failure is None:
            return url
        if what != "found":
            waiting_for -= 1
            last = failure or last
        elif url not in seen and len(seen) < MAX_ADDRESSES:
            seen.add(url)
            waiting_for += 1
            start(url)
    raise last


class _Pinned(http.client.HTTPSConnection):
    """Goes no further than the handshake with a key that has not `pin`; None takes any."""

    def __init__(self, target: SplitResult, pin: str | None, timeout_s: float) -> None:
        super().__init__(target.hostname or "", target.port or 8737, timeout=timeout_s, context=_context())
        self._pin = pin
        self.spki = b""

    def connect(self) -> None:
        super().connect()
        certificate = self.sock.getpeercert(binary_form=True)
        self.spki = _spki(certificate or b"")
        if self._pin is not None and not hmac.compare_digest(pin_of(self.spki), self._pin):
            self.close()
            raise VerificationFailed(
                f"another machine answers at {self.host}:{self.port}: it does not have the key pinned at pairing",
                "nothing was sent to it; if that computer was set up anew, pair again (`idiolect pair` there)",
            )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # the pin is what counts: see above
    context.verify_mode = ssl.CERT_NONE
    return context


def _spki(certificate: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise VerificationFailed("what answers shows a certificate that cannot be read", "is that idiolect?") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _failure(connection: Connection, timeout_s: float) -> SyncError | None:
    try:
        connection.check(timeout_s)
    except OSError as error:
        return no_answer(connection.url, error)
    except SyncError as error:
        return error
    except UsageError as error:
        return ServiceNotFound(error.message, error.hint)
    return None


def _start(work: Callable[..., None], *arguments: str) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
