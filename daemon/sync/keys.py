"""The keys that sign: `release` signs manifests, `root` signs who may. Both Ed25519, made at first use.

    release.key, root.key       private keys, PEM (PKCS #8), 0600
    roots/<version>.dsse        who may sign, one signed file a version

root.key may be moved to another disk; it is only needed for a new release key.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect import signing, wire
from idiolect.errors import StoreError
from idiolect.files import write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Keys:
    """The keys of service `repo` in `folder`. Raises StoreError where they are damaged."""

    def __init__(self, folder: Path, repo: str) -> None:
        self._folder = folder
        self._repo = repo
        if self.root_version == 0:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write_root(1, self._key("root.key"), self._key("release.key"), ())
        self._settle()
        self._root = self._read_root(self.root_version)

    @property
    def root_version(self) -> int:
        """The newest root's version; 0 before the first."""
        versions = [int(path.stem) for path in (self._folder / "roots").glob("*.dsse") if path.stem.isdecimal()]
        return max(versions, default=0)

    @property
    def root_key(self) -> str:
        """The public root key: what a device is told when it is let in."""
        return self._root.root_key

    @property
    def release_key(self) -> str:
        """The public key that manifests are signed with."""
        return self._root.release_key

    def root(self, version: int) -> bytes | None:
        """The signed root of that version."""
        path = self._folder / "roots" / f"{version}.dsse"
        return path.read_bytes() if path.is_file() else None

    def sign(self, payload: bytes) -> bytes:
        """The envelope around a manifest. Raises StoreError where the release key is not here."""
        release = self._key("release.key")
        if signing.public_of(release) != self.release_key:
            raise StoreError(
                f"{self._folder / 'release.key'} is not the key that root {self._root.version} names",
                "put the right key back from a backup, or make a new one: idiolect rotate-keys",
            )
        return signing.sign(payload, signing.MANIFEST_TYPE, [release])

    def rotate(self, *, root_too: bool = False) -> None:
        """Make a new release key, and a new root key where asked, vouched for by the root key that counts now.

        Raises StoreError where that is not here.
        """
        old = self._key("root.key")
        if signing.public_of(old) != self.root_key:
            raise StoreError(
                f"{self._folder / 'root.key'} is not the root key that devices know", "put it back from a backup"
            )
        root = _new_key() if root_too else old
        release = _new_key()
        # The root counts as soon as it is written, so the keys it names must be there before; they are written beside
        # the old ones and take their place afterwards, or at the next start.
        version = self.root_version + 1
        for left_by_a_crash in self._folder.glob(f"*.{version}.key"):
            left_by_a_crash.unlink()
        self._write_key(self._folder / f"release.{version}.key", release)
        if root_too:
            self._write_key(self._folder / f"root.{version}.key", root)
        self._write_root(version, root, release, (old,))
        self._settle()
        self._root = self._read_root(version)

    def _settle(self) -> None:
        """Give the keys that the newest root names their place, where a crash came before."""
        for version in range(2, self.root_version + 1):
            for name in ("root", "release"):
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / f"{name}.{version}.key").replace(self._folder / f"{name}.key")

    def _key(self, name: str) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = self._folder / name
        if not path.exists() and self.root_version == 0:
            self._write_key(path, _new_key())
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the key {path} cannot be read: {error}",
                "put it back from a backup; a new release key: idiolect rotate-keys",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StoreError(f"{path} is not an Ed25519 key", "put the right one back from a backup")
        return key

    def _write_key(self, path: Path, key: Ed25519PrivateKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        write_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)

    def _write_root(
        self, version: int, root: Ed25519PrivateKey, release: Ed25519PrivateKey, before: tuple[Ed25519PrivateKey, ...]
    ) -> None:
        said = wire.Root(
            repo=self._repo,
            version=version,
            issued=wire.utc_now(),
            root_key=signing.public_of(root),
            release_key=signing.public_of(release),
        )
        signers = [*before, *(() if signing.public_of(root) in map(signing.public_of, before) else (root,))]
        roots = self._folder / "roots"
        roots.mkdir(exist_ok=True)
        write_bytes(roots / f"{version}.dsse", signing.sign(wire.dump(said), signing.ROOT_TYPE, signers))

    def _read_root(self, version: int) -> wire.Root:
        path = self._folder / "roots" / f"{version}.dsse"
        try:
            return wire.Root.model_validate_json(signing.payload_of(path.read_bytes(), signing.ROOT_TYPE))
        except Exception as error:
            raise StoreError(f"{path} is damaged", "put it back from a backup") from error


def _new_key() -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()
