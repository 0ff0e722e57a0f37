from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from idiolect import signing, wire
from idiolect.errors import VerificationFailed
from idiolect.trust import MAX_ROOTS, Trust

NOW = datetime(2026, 11, 23, tzinfo=UTC)
REPO = "k7f3q2mzx5ab"


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


ROOT, RELEASE, NEXT_ROOT, NEXT_RELEASE, THIEF = map(key, range(1, 6))
START = Trust(root_key=signing.public_of(ROOT))


def root(version: int, root: Ed25519PrivateKey, release: Ed25519PrivateKey, *signers: Ed25519PrivateKey) -> bytes:
    said = wire.Root(
        repo=REPO,
        version=version,
        issued=NOW,
        root_key=signing.public_of(root),
        release_key=signing.public_of(release),
    )
    return signing.sign(wire.dump(said), signing.ROOT_TYPE, signers or (root,))


def manifest(signer: Ed25519PrivateKey = RELEASE, **update: Any) -> bytes:  # noqa: ANN401
    said: dict[str, Any] = {"repo": REPO, "version": 1, "issued": NOW, "expires": NOW + timedelta(days=30)} | update
    return signing.sign(wire.dump(wire.Manifest(**said)), signing.MANIFEST_TYPE, [signer])


FIRST = root(1, ROOT, RELEASE)


def roots(*bodies: bytes) -> Any:  # noqa: ANN401
    return dict(enumerate(bodies, 1)).__getitem__


def take(trust: Trust, body: bytes, *bodies: bytes, now: datetime = NOW) -> Trust:
    return trust.take(body, REPO, now, roots(*(bodies or (FIRST,))))[0]


def test_the_first_manifest() -> None:
    trust, taken = START.take(manifest(), REPO, NOW, roots(FIRST))
    assert (trust.version, trust.root_version, trust.expires) == (1, 1, NOW + timedelta(days=30))
    assert trust.release_key == signing.public_of(RELEASE)
    assert taken.version == 1
    assert Trust.model_validate_json(trust.model_dump_json()) == trust


def test_the_same_again_and_the_next_ask_for_no_root() -> None:
    trust = take(START, manifest())
    again, _ = trust.take(manifest(), REPO, NOW, roots())
    assert again == trust
    assert trust.take(manifest(version=7), REPO, NOW, roots())[0].version == 7


def test_rollback_fork_and_freeze() -> None:
    trust = take(START, manifest(version=5))
    with pytest.raises(VerificationFailed, match="rollback: manifest 4 is offered and 5"):
        take(trust, manifest(version=4))
    with pytest.raises(VerificationFailed, match="fork: manifest 5"):
        take(trust, manifest(version=5, withdrawn=["r-0001"]))
    with pytest.raises(VerificationFailed, match="no fresh news: the manifest expired on 2026-12-23"):
        take(trust, manifest(version=6), now=NOW + timedelta(days=31))
    with pytest.raises(VerificationFailed, match="of service aaaaaaaaaaaa"):
        take(trust, manifest(version=6, repo="a" * 12))


def test_new_release_key_and_new_root_key() -> None:
    trust = take(START, manifest(version=wire.MAX_INTEGER))
    chain = (FIRST, root(2, ROOT, NEXT_RELEASE), root(3, NEXT_ROOT, THIEF, ROOT, NEXT_ROOT))
    second = take(trust, manifest(NEXT_RELEASE, root_version=2), *chain)
    assert (second.root_version, second.version) == (2, 1)
    third = take(trust, manifest(THIEF, root_version=3), *chain)
    assert third.root_key == signing.public_of(NEXT_ROOT)
    with pytest.raises(VerificationFailed, match="rollback: the manifest is of root 2, 3"):
        take(third, manifest(NEXT_RELEASE, version=9, root_version=2), *chain)
    with pytest.raises(VerificationFailed, match="the signature is not of the key"):
        take(second, manifest(RELEASE, version=9, root_version=2), *chain)


def test_paired_after_the_root_key_was_changed() -> None:
    chain = (FIRST, root(2, NEXT_ROOT, NEXT_RELEASE, ROOT, NEXT_ROOT))
    trust = Trust(root_key=signing.public_of(NEXT_ROOT))
    assert take(trust, manifest(NEXT_RELEASE, root_version=2), *chain).root_version == 2
    with pytest.raises(VerificationFailed, match="no root of this service is signed by the key from pairing"):
        take(trust, manifest(RELEASE), *chain)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (root(2, NEXT_ROOT, THIEF), "the signature is not of the key"),
        (root(2, ROOT, THIEF, THIEF), "the signature is not of the key"),
        (root(2, NEXT_ROOT, THIEF, ROOT), "the signature is not of the key"),
        (root(2, NEXT_ROOT, THIEF, RELEASE, NEXT_ROOT), "the signature is not of the key"),
        (root(3, ROOT, THIEF), "root 2 of k7f3q2mzx5ab was wanted, this is root 3"),
        (FIRST, "root 2 of k7f3q2mzx5ab was wanted, this is root 1"),
        (manifest(), r"a signed application/vnd.idiolect.root\+json was wanted"),
        (signing.sign(b"{}", signing.ROOT_TYPE, [ROOT]), "not a root"),
        (b"", "not a signed document"),
    ],
    ids="own stolen-root not-its-own by-release skipped first manifest empty nothing".split(),
)
def test_a_root_nobody_vouches_for(second: bytes, message: str) -> None:
    trust = take(START, manifest())
    with pytest.raises(VerificationFailed, match=message):
        take(trust, manifest(THIEF, version=2, root_version=2), FIRST, second)


def test_the_chain_is_bounded() -> None:
    asked: list[int] = []

    def fetch(version: int) -> bytes:
        asked.append(version)
        return root(version, ROOT, RELEASE)

    with pytest.raises(VerificationFailed, match="is of root 257, 0 was seen before"):
        START.take(manifest(root_version=MAX_ROOTS + 1), REPO, NOW, fetch)
    assert asked == []
    START.take(manifest(root_version=MAX_ROOTS), REPO, NOW, fetch)
    assert asked == list(range(1, MAX_ROOTS + 1))


def test_nothing_told_at_pairing() -> None:
    with pytest.raises(VerificationFailed, match="not told at pairing") as caught:
        take(Trust(), manifest())
    assert "idiolect pair" in caught.value.hint
