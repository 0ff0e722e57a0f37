"""Signed bytes: DSSE envelopes (secure-systems-lab/dsse, protocol 1.0.2) with Ed25519 (RFC 8032).

What is signed is the exact payload with its type, so no reader needs canonical JSON. A key is written as base64url of
its 32 raw bytes, without padding; its keyid is the SHA-256 of those bytes in hex, and only a hint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idiolect.errors import VerificationFailed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST_TYPE = "application/vnd.idiolect.manifest+json"
ROOT_TYPE = "application/vnd.idiolect.root+json"
MAX_SIGNATURES = 8


class Signature(BaseModel):
    """One signature (base64) and whose it says it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    keyid: str = ""
    sig: Annotated[str, Field(max_length=128)]


class Envelope(BaseModel):
    """What travels. `payload` is base64."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    payloadType: str
    payload: str
    signatures: Annotated[tuple[Signature, ...], Field(max_length=MAX_SIGNATURES)]


def sign(payload: bytes, payload_type: str, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """An envelope as compact JSON, signed by each of `keys`."""
    said = pre_authentication(payload_type, payload)
    signatures = tuple(
        Signature(keyid=key_id(public_of(key)), sig=base64.b64encode(key.sign(said)).decode()) for key in keys
    )
    made = Envelope(payloadType=payload_type, payload=base64.b64encode(payload).decode(), signatures=signatures)
    return made.model_dump_json().encode()


def payload_of(body: bytes, payload_type: str) -> bytes:
    """The payload of an envelope that nobody has verified yet. Raises VerificationFailed for anything else."""
    return _opened(body, payload_type)[1]


def verify(body: bytes, payload_type: str, public_key: str) -> bytes:
    """The payload of an envelope that `public_key` has signed. Raises VerificationFailed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    envelope, payload = _opened(body, payload_type)
    try:
        key = Ed25519PublicKey.from_public_bytes(_key_bytes(public_key))
    except ValueError as error:
        raise VerificationFailed(f"{public_key!r} is no Ed25519 key", "pair again") from error
    said = pre_authentication(payload_type, payload)
    for signature in envelope.signatures:
        try:
            key.verify(base64.b64decode(signature.sig, validate=True), said)
            return payload
        except (InvalidSignature, binascii.Error, ValueError):
            continue
    raise VerificationFailed(
        f"the signature is not of the key {key_id(public_key)[:16]}…",
        "what was sent was changed on its way, or another machine made it; nothing was taken over",
    )


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """DSSE's PAE: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def public_of(key: Ed25519PrivateKey) -> str:
    """The public half, as it is written everywhere."""
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()


def key_id(public_key: str) -> str:
    """SHA-256 of the raw key in hex. Raises ValueError."""
    return hashlib.sha256(_key_bytes(public_key)).hexdigest()


def _opened(body: bytes, payload_type: str) -> tuple[Envelope, bytes]:
    try:
        envelope = Envelope.model_validate_json(body)
        payload = base64.b64decode(envelope.payload, validate=True)
    except (ValidationError, binascii.Error, ValueError) as error:
        raise VerificationFailed("what was sent is not a signed document", "is that idiolect?") from error
    if envelope.payloadType != payload_type:
        raise VerificationFailed(f"a signed {payload_type} was wanted, this is {envelope.payloadType!r:.80}")
    return envelope, payload


def _key_bytes(public_key: str) -> bytes:
    if len(public_key) != 43:
        raise ValueError("a key has 43 characters")
    return base64.b64decode(public_key.replace("-", "+").replace("_", "/") + "=", validate=True)
