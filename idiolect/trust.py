"""Whose manifests a device believes: the root key it got when it was let in, and whom that key lets sign.

Shaped after The Update Framework's root role, with one file in place of four. A new root is signed by the root key
before it and by its own; where one has come, versions of manifests may begin anew, which is the lawful way back from a
manifest whose version was driven up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from idiolect import signing
from idiolect.errors import VerificationFailed
from idiolect.wire import MAX_MANIFEST_BYTES, Manifest, Root

MAX_ROOTS = 256
PAIR_AGAIN = "pair again: `idiolect pair` on the computer that trains"

FetchRoot = Callable[[int], bytes]
"""Version → the signed root. Raises VerificationFailed where the service has none."""


class Trust(BaseModel):
    """What a device has seen and believes of one service. `version` and `manifest_sha256` are the last manifest's."""

    model_config = ConfigDict(frozen=True)

    root_version: int = 0
    root_key: str = ""
    release_key: str = ""
    version: int = 0
    manifest_sha256: str = ""
    expires: datetime | None = None

    def take(self, body: bytes, repo: str, now: datetime, fetch_root: FetchRoot) -> tuple[Trust, Manifest]:
        """Believe the manifest in the envelope `body`, or raise VerificationFailed and nothing has changed.

        Needs a `root_key`, the one from pairing where no root was seen yet.
        """
        if len(body) > MAX_MANIFEST_BYTES:
            raise VerificationFailed(f"what was sent is more than {MAX_MANIFEST_BYTES} bytes", "is that idiolect?")
        trust = self._follow(_manifest(signing.payload_of(body, signing.MANIFEST_TYPE)).root_version, repo, fetch_root)
        manifest = _manifest(signing.verify(body, signing.MANIFEST_TYPE, trust.release_key))
        if manifest.repo != repo:
            raise VerificationFailed(f"this is a manifest of service {manifest.repo}, wanted was one of {repo}")
        digest = hashlib.sha256(body).hexdigest()
        if manifest.version < trust.version:
            raise VerificationFailed(
                f"rollback: manifest {manifest.version} is offered and {trust.version} was seen before",
                "the model you have stays in use; after a restored backup: `idiolect rotate-keys` there",
            )
        if manifest.version == trust.version and digest != trust.manifest_sha256:
            raise VerificationFailed(
                f"fork: manifest {manifest.version} was changed after it was published",
                "the model you have stays in use; look at the computer that trains",
            )
        refuse_expired(manifest.expires, now)
        seen = {"version": manifest.version, "manifest_sha256": digest, "expires": manifest.expires}
        return trust.model_copy(update=seen), manifest

    def _follow(self, root_version: int, repo: str, fetch_root: FetchRoot) -> Trust:
        """Walk the roots up to `root_version`, each vouched for by the one before."""
        if not self.root_key:
            raise VerificationFailed("it was not told at pairing whose manifests to believe", PAIR_AGAIN)
        if root_version < self.root_version:
            raise VerificationFailed(
                f"rollback: the manifest is of root {root_version}, {self.root_version} was seen before"
            )
        if root_version > self.root_version + MAX_ROOTS:
            raise VerificationFailed(f"the manifest is of root {root_version}, {self.root_version} was seen before")
        trust = self
        for version in range(self.root_version + 1, root_version + 1):
            trust = trust._next(fetch_root(version), version, repo)
        if not trust.release_key:
            raise VerificationFailed("no root of this service is signed by the key from pairing", PAIR_AGAIN)
        return trust

    def _next(self, body: bytes, version: int, repo: str) -> Trust:
        root = _root(signing.payload_of(body, signing.ROOT_TYPE))
        if (root.version, root.repo) != (version, repo):
            raise VerificationFailed(f"root {version} of {repo} was wanted, this is root {root.version} of {root.repo}")
        if not self.root_version and root.root_key != self.root_key:
            return self  # older than the pairing: nothing vouches for it, and nothing needs it
        signing.verify(body, signing.ROOT_TYPE, self.root_key)
        signing.verify(body, signing.ROOT_TYPE, root.root_key)
        return Trust(root_version=version, root_key=root.root_key, release_key=root.release_key)


def refuse_expired(expires: datetime | None, now: datetime) -> None:
    """Raise VerificationFailed where no newer word than `expires` has come: somebody may hold it back."""
    if expires is not None and expires <= now:
        raise VerificationFailed(
            f"no fresh news: the manifest expired on {expires:%Y-%m-%d %H:%M} UTC",
            "the model you have stays in use; is the clock right, here and there?",
        )


def _manifest(payload: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(payload)
    except ValidationError as error:
        raise VerificationFailed("what was sent is not a manifest", "is that idiolect?") from error


def _root(payload: bytes) -> Root:
    try:
        return Root.model_validate_json(payload)
    except ValidationError as error:
        raise VerificationFailed("what was sent is not a root", "is that idiolect?") from error
