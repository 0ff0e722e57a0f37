from __future__ import annotations

import datetime
import ipaddress
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509

from daemon.sync.identity import Identity, ServerTls
from idiolect.connection import id_of, pin_of
from idiolect.errors import StoreError
from idiolect.wire import is_repo_id


def test_the_key_stays_and_the_certificate_follows_the_addresses(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "keys")
    pin = identity.pin
    assert len(pin) == 43
    assert is_repo_id(identity.id)
    tls = ServerTls(identity)
    seen = set()
    for addresses in (["127.0.0.1"], ["192.168.1.20", "fd00::2"], ["127.0.0.1"]):
        assert tls.renew(addresses)
        assert not tls.renew(addresses)
        certificate = x509.load_pem_x509_certificate((tmp_path / "keys" / "tls-certificate.pem").read_bytes())
        seen.add(certificate.serial_number)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{identity.id}.local"]
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(each) for each in addresses]
        lasts = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=396) < lasts <= datetime.timedelta(days=397)
        assert Identity(tmp_path / "keys").pin == pin
    assert len(seen) == 3


def test_an_old_certificate_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ServerTls(Identity(tmp_path))
    assert tls.renew(["127.0.0.1"])
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 366 * 86_400)
    assert not tls.renew(["127.0.0.1"])
    monkeypatch.setattr(time, "time", lambda: now_s + 368 * 86_400)
    assert tls.renew(["127.0.0.1"])


def test_the_key_is_private(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "keys")
    ServerTls(identity).renew(["127.0.0.1"])
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for file in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_never_replaced_silently(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tls-key.pem").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be used") as caught:
        Identity(tmp_path)
    assert "paired again" in caught.value.hint
    assert (tmp_path / "tls-key.pem").read_bytes() == content


def test_pin_and_name_of_a_key_that_is_known() -> None:
    """The SHA-256 of b"abc" (FIPS 180-2, B.1) in base64url and base32."""
    assert pin_of(b"abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
    assert id_of(b"abc") == "xj4bnp4pahh6"
