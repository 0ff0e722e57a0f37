from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from idiolect import signing
from idiolect.errors import VerificationFailed

# RFC 8032, section 7.1, test 1: secret and public key.
KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
TYPE = "http://example.com/HelloWorld"


def test_a_key_as_it_is_written() -> None:
    assert signing.public_of(KEY) == base64.urlsafe_b64encode(PUBLIC).decode().rstrip("=")
    assert signing.key_id(signing.public_of(KEY)) == "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9"
    for text in ("", "x", "?" * 43, "é" * 43, signing.public_of(KEY) + "="):
        with pytest.raises(ValueError, match=r"."):
            signing.key_id(text)


def test_what_is_signed_is_that_of_the_standard() -> None:
    """The example of DSSE's protocol.md."""
    assert signing.pre_authentication(TYPE, b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_there_and_back() -> None:
    for keys in ([KEY], [OTHER, KEY], [KEY, OTHER]):
        envelope = signing.sign(b"\x00payload\xff", TYPE, keys)
        assert set(json.loads(envelope)) == {"payloadType", "payload", "signatures"}
        assert signing.payload_of(envelope, TYPE) == b"\x00payload\xff"
        assert signing.verify(envelope, TYPE, signing.public_of(KEY)) == b"\x00payload\xff"
    with pytest.raises(VerificationFailed, match="the signature is not of the key 21fe31dfa154a261"):
        signing.verify(signing.sign(b"x", TYPE, [OTHER]), TYPE, signing.public_of(KEY))
    with pytest.raises(VerificationFailed, match="no Ed25519 key"):
        signing.verify(signing.sign(b"x", TYPE, [KEY]), TYPE, "x")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"payloadType": "text/plain"}, "a signed http://example.com/HelloWorld was wanted"),
        ({"payload": base64.b64encode(b"y").decode()}, "the signature is not of the key"),
        ({"payload": "%%%"}, "not a signed document"),
        ({"payload": 7}, "not a signed document"),
        ({"signatures": []}, "the signature is not of the key"),
        ({"signatures": [{"sig": "%"}]}, "the signature is not of the key"),
        ({"signatures": [{"sig": "ü"}]}, "the signature is not of the key"),
        ({"signatures": [{"sig": base64.b64encode(bytes(64)).decode()}]}, "the signature is not of the key"),
        ({"signatures": [{"sig": "A" * 129}]}, "not a signed document"),
        ({"signatures": [{"sig": ""}] * 9}, "not a signed document"),
    ],
)
def test_what_is_refused(update: dict[str, Any], message: str) -> None:
    envelope = json.loads(signing.sign(b"x", TYPE, [KEY])) | update
    with pytest.raises(VerificationFailed, match=message):
        signing.verify(json.dumps(envelope).encode(), TYPE, signing.public_of(KEY))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b"\xff", b'{"payload":"eA=="}', b"[" * 100_000])
def test_what_is_no_envelope(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match="not a signed document"):
        signing.payload_of(body, TYPE)


def test_the_keyid_is_only_a_hint() -> None:
    envelope = json.loads(signing.sign(b"x", TYPE, [KEY]))
    envelope["signatures"][0]["keyid"] = "of somebody else"
    assert signing.verify(json.dumps(envelope).encode(), TYPE, signing.public_of(KEY)) == b"x"
