"""Who this machine is to its devices: one P-256 key made at first run, and a certificate made anew as it needs be.

Devices pin the key, so a certificate for new addresses changes nothing for them.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.connection import id_of, pin_of
from idiolect.errors import StoreError
from idiolect.files import write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

VALID_FOR = datetime.timedelta(days=397)
RENEW_BEFORE = datetime.timedelta(days=30)


class Identity:
    """The key in `folder` (0700; files 0600), made there where there is none. Raises StoreError for a damaged one."""

    def __init__(self, folder: Path) -> None:
        self._key_file = folder / "tls-key.pem"
        self._certificate_file = folder / "tls-certificate.pem"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._key = self._load_or_make()

    @cached_property
    def spki(self) -> bytes:
        """The public key as SubjectPublicKeyInfo (DER), what the pin is of."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def pin(self) -> str:
        """What devices keep: base64url SHA-256 of the key."""
        return pin_of(self.spki)

    @property
    def id(self) -> str:
        """The name that follows from the key: 12 base32 characters."""
        return id_of(self.spki)

    def certify(self, addresses: Sequence[str]) -> tuple[Path, Path]:
        """Make a certificate for `addresses`, from now on; gives its file and the key's."""
        write_bytes(self._certificate_file, self._certificate(addresses), mode=0o600)
        return self._certificate_file, self._key_file

    def _load_or_make(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            load_pem_private_key,
        )

        if not self._key_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_bytes(self._key_file, pem, mode=0o600)
        self._key_file.chmod(0o600)
        try:
            loaded = load_pem_private_key(self._key_file.read_bytes(), password=None)
            if isinstance(loaded, ec.EllipticCurvePrivateKey) and isinstance(loaded.curve, ec.SECP256R1):
                return loaded
            reason = "not a P-256 key"
        except (OSError, ValueError, TypeError) as error:
            reason = str(error)
        raise StoreError(
            f"this machine's key {self._key_file} cannot be used: {reason}",
            "put it back from a backup, or move it away: a new one is made and every device has to be paired again",
        )

    def _certificate(self, addresses: Sequence[str]) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        now = datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"idiolect {self.id}")])
        names: list[x509.GeneralName] = [x509.DNSName(f"{self.id}.local")]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # for devices whose clock is behind
            .not_valid_after(now + VALID_FOR)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)


class ServerTls:
    """TLS 1.2 or newer as `identity`; `renew` gives it a certificate before the first connection."""

    def __init__(self, identity: Identity) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._identity = identity
        self._addresses: tuple[str, ...] | None = None
        self._renew_at_s = 0.0

    def renew(self, addresses: Sequence[str]) -> bool:
        """Take a certificate for `addresses`, unless it has one for just those that is not old. True where it did.

        New connections see it at once, those that are open go on.
        """
        if self._addresses == tuple(addresses) and time.time() < self._renew_at_s:
            return False
        self.context.load_cert_chain(*self._identity.certify(addresses))
        self._addresses, self._renew_at_s = tuple(addresses), time.time() + (VALID_FOR - RENEW_BEFORE).total_seconds()
        return True
