"""The release store: files named by their digest, and a manifest whose version only rises.

    repo_id                     who we are: 12 base32 characters, made once
    blobs/sha256/ab/<64 hex>    the releases' files, read-only
    manifests/<version>.dsse    what was published, signed
    keys/                       what signs it (daemon/sync/keys.py)
    current                     the version that counts
    tmp/                        files on their way in

Only the rename of `current` publishes. Whatever ends a publication before it leaves the old state; what lies
about after it is removed by the next one. One process at a time may publish: the one that holds the home's lock.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from daemon.sync import pins, publishing
from daemon.sync.keys import Keys
from daemon.sync.pins import Kept, Pins
from idiolect import signing, wire
from idiolect.errors import StoreError, UsageError, VerificationFailed
from idiolect.files import CHUNK_BYTES, free_bytes, sync_folder, write_bytes, write_text
from idiolect.wire import ArtifactFile, BaseModelInfo, EvalInfo, Release, TrainInfo

RELEASES_PER_TIER = 5
MANIFESTS_KEPT = 5
EXPIRES_AFTER = timedelta(days=30)
RENEW_AFTER = timedelta(days=7)
MAX_PAYLOAD_BYTES = wire.MAX_MANIFEST_BYTES * 3 // 4 - 1024
"""So that it fits as base64 with its signature around it."""


@dataclass(frozen=True)
class Candidate:
    """What becomes a release: each artifact with the folder its files lie in."""

    tier: str
    languages: Sequence[str]
    base: BaseModelInfo
    train: TrainInfo
    eval: EvalInfo
    artifacts: Sequence[tuple[wire.Artifact, Path]]


@dataclass(frozen=True)
class Published:
    """One manifest with its exact bytes, signed; `files` are those that may be fetched, by digest, and `withdrawn` the
    digests of those that might be before."""

    manifest: Kept
    envelope: bytes
    files: dict[str, ArtifactFile] = field(repr=False)
    withdrawn: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, envelope: bytes) -> Published:
        """What such an envelope publishes. Raises VerificationFailed, ValidationError."""
        manifest = _manifest(envelope)
        gone = [release for release in manifest.releases if release.id in manifest.withdrawn]
        files = _files(release for release in manifest.releases if release not in gone)
        return cls(manifest, envelope, files, frozenset(_files(gone)) - files.keys())

    @property
    def etag(self) -> str:
        return f'"mv-{self.manifest.version}"'


class ReleaseStore:
    """The store in folder `root`, with the id `repo` (default: a random one) where it is new. Nothing is written before
    it is needed. Raises StoreError where it is damaged."""

    def __init__(self, root: Path, repo: str = "") -> None:
        self._root = root
        self._new_repo = repo
        self._lock = threading.Lock()
        self._published = self._load()
        self._views: dict[str, Published] = {}  # by device, where there are pins

    @property
    def published(self) -> Published | None:
        """What is published now, or None before the first release. Take it once where parts of it must agree."""
        return self._published

    @property
    def manifest(self) -> Kept | None:
        """The manifest that is published now."""
        return self._published.manifest if self._published else None

    @property
    def version(self) -> int:
        """The version of the manifest; 0 before the first release."""
        return self._published.manifest.version if self._published else 0

    @property
    def repo(self) -> str:
        """This store's id. Made here at first use."""
        if self._published:
            return self._published.manifest.repo
        path = self._root / "repo_id"
        if not path.exists():
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            alphabet = "abcdefghijklmnopqrstuvwxyz234567"
            made = self._new_repo or "".join(secrets.choice(alphabet) for _ in range(12))
            write_text(path, made + "\n", mode=0o600)
        return path.read_text().strip()

    @functools.cached_property
    def keys(self) -> Keys:
        """What signs here. Made at first use."""
        return Keys(self._root / "keys", self.repo)

    def blob(self, sha256: str) -> Path | None:
        """The file with this digest, if a listed release names it."""
        if self._published and sha256 in self._published.files:
            return self._blob_path(sha256)
        return None

    def published_to(self, device_id: str) -> Published | None:
        """What is published as this device is told it. The same bytes each time: so is an Ed25519 signature."""
        published = self._published
        if published is None or not published.manifest.pins:
            return published
        told = published.manifest.told(device_id)
        if told.channels == published.manifest.channels:
            device_id = ""
        view = self._views.get(device_id)
        if view is None or view.manifest.version != told.version:
            view = self._views[device_id] = replace(published, manifest=told, envelope=self.keys.sign(wire.dump(told)))
        return view

    def publish(self, candidate: Candidate, channel: str = "stable") -> Release:
        """Take in the candidate's files and make it its tier's release in `channel`, whole or not at all.

        Every file is copied, and compared with the size, digest and magic that its artifact states. Raises StoreError.
        """
        with self._changing():
            release = self._release(candidate)
            self._make_room(release)
            for artifact, folder in candidate.artifacts:
                for file in artifact.files:
                    self._take_in(folder / file.path, file)
            self._commit(self._with(release, channel))
        return release

    def renew(self) -> bool:
        """Publish the same releases under a new version and date where the manifest is a week old, so that it does
        not expire while somebody answers for it, or where there are newer keys. True when that was done. Raises
        StoreError."""
        if not self.manifest or (
            wire.utc_now() - self.manifest.issued < RENEW_AFTER and self.manifest.root_version == self.keys.root_version
        ):
            return False
        with self._changing():
            self._commit(self._next(self.manifest.releases, self.manifest.channels))
        return True

    def rollback(self, tier: str, release_id: str = "") -> Release:
        """Make another listed release its tier's stable one: the newest before the one that is, unless named. Raises
        UsageError, StoreError."""
        with self._changing():
            release = publishing.earlier(self.manifest, tier, release_id)
            assert self.manifest is not None
            channels = {**self.manifest.channels, tier: publishing.stable_at(self.manifest.channels[tier], release.id)}
            self._commit(self._next(self.manifest.releases, channels))
        return release

    def withdraw(self, release_id: str) -> Release:
        """Never offer a release again. Raises UsageError, StoreError."""
        with self._changing():
            release = self._offered(release_id)
            assert self.manifest is not None
            channels = publishing.without(self.manifest, release)
            gone = pins.without(self.manifest.pins, release_id=release_id)
            self._commit(self._next(self.manifest.releases, channels, [release_id], gone))
        return release

    def pin(self, device_id: str, release_id: str) -> Release:
        """Let one device have this release of its tier, whatever the channels name. Raises UsageError, StoreError."""
        with self._changing():
            release = self._offered(release_id)
            assert self.manifest is not None
            now = pins.pinned(self.manifest.pins, device_id, release.tier, release_id)
            self._commit(self._next(self.manifest.releases, self.manifest.channels, pinned=now))
        return release

    def unpin(self, device_id: str) -> bool:
        """Let it follow the channels again; False where it does. Raises StoreError."""
        with self._changing():
            if self.manifest is None or device_id not in (self.manifest.pins or {}):
                return False
            now = pins.without(self.manifest.pins, device_id=device_id)
            self._commit(self._next(self.manifest.releases, self.manifest.channels, pinned=now))
        return True

    def rotate(self, *, root_too: bool = False) -> None:
        """Make new keys (daemon/sync/keys.py) and publish what is there signed by them. Raises StoreError."""
        with self._changing():
            self.keys.rotate(root_too=root_too)
            if self.manifest:
                self._commit(self._next(self.manifest.releases, self.manifest.channels))

    # Reading

    def _load(self) -> Published | None:
        pointer = self._root / "current"
        if not pointer.exists():
            return None
        try:
            version = int(pointer.read_text())
            envelope = self._manifest_path(version).read_bytes()
            published = Published.of(envelope)
            if published.manifest.version != version:
                raise ValueError(f"manifest {version} says that it is {published.manifest.version}")
        except (OSError, ValueError, VerificationFailed) as error:
            raise StoreError(
                f"the release store {self._root} is damaged: {error}",
                f"put the number of the newest good file of {self._root / 'manifests'} into {pointer}",
            ) from error
        return published

    def _offered(self, release_id: str) -> Release:
        release = self.manifest.release(release_id) if self.manifest else None
        if self.manifest is None or release is None or release_id in self.manifest.withdrawn:
            raise UsageError(f"no release that is offered is called {release_id!r}", "see: idiolect releases")
        return release

    def _blob_path(self, sha256: str) -> Path:
        return self._root / "blobs" / "sha256" / sha256[:2] / sha256

    def _manifest_path(self, version: int) -> Path:
        return self._root / "manifests" / f"{version}.dsse"

    def _versions(self) -> list[int]:
        """Versions of the manifests on disk, rising; one that a crash left unpublished is among them."""
        return sorted(int(path.stem) for path in (self._root / "manifests").glob("*.dsse") if path.stem.isdecimal())

    # Writing

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        temporary = self._root / "tmp"
        with self._lock:
            try:
                self._published = self._load()
                self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                (self._root / "manifests").mkdir(exist_ok=True)
                for leftover in (*self._root.glob(".*.tmp"), *self._root.glob("manifests/.*.tmp")):
                    leftover.unlink()
                yield
            except OSError as error:
                raise StoreError(
                    f"cannot publish: {error.strerror or error}",
                    f"nothing was changed; look at free space and access rights of {self._root}",
                ) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _make_room(self, release: Release) -> None:
        needed_bytes = sum(artifact.size_bytes for artifact in release.artifacts)
        free = free_bytes(self._root)
        if free < needed_bytes + wire.MAX_MANIFEST_BYTES:
            raise StoreError(
                f"cannot publish: the release has {needed_bytes} bytes and the disk only {free} free",
                f"nothing was changed; make room where {self._root} lies",
            )

    def _take_in(self, source: Path, file: ArtifactFile) -> None:
        """Copy `source` to its place among the blobs; what is hashed is what was written."""
        temporary = self._root / "tmp" / uuid.uuid4().hex
        digest = hashlib.sha256()
        with source.open("rb") as reader, temporary.open("xb") as writer:
            head = b""
            while chunk := reader.read(CHUNK_BYTES):
                head = head or chunk[:4]
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
            size_bytes = writer.tell()
        for name, found, promised in (
            ("size", size_bytes, file.size_bytes),
            ("SHA-256", digest.hexdigest(), file.sha256),
            ("magic", head.hex()[: len(file.magic)], file.magic),
        ):
            if found != promised:
                raise StoreError(
                    f"{source} is not what its export says: {name} {found}, expected {promised}",
                    "nothing was changed; export it again",
                )
        temporary.chmod(0o444)
        target = self._blob_path(file.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
        for folder in (target.parent, target.parent.parent):
            sync_folder(folder)

    def _release(self, candidate: Candidate) -> Release:
        artifacts = [artifact for artifact, _ in candidate.artifacts]
        profiles = [artifact.profile for artifact in artifacts]
        if not artifacts or len(set(profiles)) < len(profiles):
            raise StoreError(f"a release needs one artifact or more, each for another profile; this has {profiles}")
        for artifact in artifacts:
            if artifact.size_bytes != sum(file.size_bytes for file in artifact.files):
                raise StoreError(f"{artifact.profile}: size_bytes {artifact.size_bytes} is not the sum of its files")
        listed = self.manifest.releases if self.manifest else []
        channels = self.manifest.channels if self.manifest else {}
        try:
            return Release(
                id=f"r-{1 + max((release.number for release in listed), default=0):04d}",
                tier=candidate.tier,
                created=wire.utc_now(),
                parent=channels.get(candidate.tier, {}).get("stable"),
                languages=list(candidate.languages),
                base=candidate.base,
                train=candidate.train,
                eval=candidate.eval,
                artifacts=artifacts,
            )
        except ValidationError as error:
            raise StoreError(f"this cannot become a release: {error}") from error

    def _with(self, release: Release, channel: str) -> Kept:
        """The next manifest: `channel` names `release`, and each tier lists its newest few that fit."""
        old = self.manifest
        channels = dict(old.channels) if old else {}
        names = channels.get(release.tier, {})
        changed = publishing.stable_at(names, release.id) if channel == "stable" else {**names, channel: release.id}
        channels[release.tier] = changed
        pinned = (old.pins if old else None) or {}
        releases = [release, *(old.releases if old else [])]
        for per_tier in range(RELEASES_PER_TIER, 0, -1):
            manifest = self._next(_newest(releases, [*channels.values(), *pinned.values()], per_tier), channels)
            if len(wire.dump(manifest)) <= MAX_PAYLOAD_BYTES:
                return manifest
        raise StoreError(
            f"the manifest would have more than {wire.MAX_MANIFEST_BYTES} bytes, which no device reads",
            "nothing was changed; export for fewer profiles ([export] profiles)",
        )

    def _next(
        self,
        releases: list[Release],
        channels: dict[str, dict[str, str]],
        withdrawn: Sequence[str] = (),
        pinned: Pins | None = None,
    ) -> Kept:
        if pinned is None and self.manifest:
            pinned = self.manifest.pins
        now = wire.utc_now()
        gone = {*withdrawn, *(self.manifest.withdrawn if self.manifest else ())}
        return Kept(
            repo=self.repo,
            version=1 + max(self.version, *self._versions(), 0),
            issued=now,
            expires=now + EXPIRES_AFTER,
            root_version=self.keys.root_version,
            channels=channels,
            withdrawn=[release.id for release in releases if release.id in gone],
            pins=pinned or None,
            releases=releases,
        )

    def _commit(self, manifest: Kept) -> None:
        envelope = self.keys.sign(wire.dump(manifest))
        signing.verify(envelope, signing.MANIFEST_TYPE, self.keys.release_key)
        published = Published.of(envelope)
        write_bytes(self._manifest_path(manifest.version), envelope)
        write_text(self._root / "current", f"{manifest.version}\n")
        self._published = published
        with contextlib.suppress(OSError, ValidationError, VerificationFailed):
            self._collect()

    def _collect(self) -> None:
        """Remove old manifests, and the blobs that no manifest left on disk names."""
        versions = self._versions()
        for version in versions[:-MANIFESTS_KEPT]:
            self._manifest_path(version).unlink()
        named: set[str] = set()
        for version in versions[-MANIFESTS_KEPT:]:
            named |= _files(_manifest(self._manifest_path(version).read_bytes()).releases).keys()
        for path in (self._root / "blobs" / "sha256").glob("??/*"):
            if path.name not in named:
                path.unlink()


def _manifest(envelope: bytes) -> Kept:
    return Kept.model_validate_json(signing.payload_of(envelope, signing.MANIFEST_TYPE))


def _files(releases: Iterable[Release]) -> dict[str, ArtifactFile]:
    return {file.sha256: file for release in releases for artifact in release.artifacts for file in artifact.files}


def _newest(releases: list[Release], named_by: Sequence[Mapping[str, str]], per_tier: int) -> list[Release]:
    """The newest `per_tier` releases of every tier, and those that a channel or a pin names."""
    named = {release_id for names in named_by for release_id in names.values()}
    seen: dict[str, int] = {}
    kept = []
    for release in sorted(releases, key=lambda release: release.number, reverse=True):
        seen[release.tier] = seen.get(release.tier, 0) + 1
        if seen[release.tier] <= per_tier or release.id in named:
            kept.append(release)
    return kept
