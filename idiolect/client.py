"""Find an idiolect service, take its newest model for one kind of device, and put it in place whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ipaddress
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect import fetch, wire
from idiolect.errors import ServiceNotFound, SyncError, TransferFailed, VerificationFailed
from idiolect.files import free_bytes
from idiolect.install import Place, State, Version
from idiolect.wire import Artifact, ArtifactFile, Manifest, Release

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

SETTLE_S = 1.0  # after the first service, so that a second one in the same house is seen too

FIND_S = 5.0

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Service:
    """A service that announces itself. All of it is a hint; the manifest says who it is."""

    id: str
    label: str
    urls: tuple[str, ...]
    version: int


@dataclass(frozen=True)
class Pulled:
    """What is in place now. `previous` is the folder of the version before, where there is one."""

    release_id: str
    tier: str
    profile: str
    changed: bool
    files: list[Path]
    size_bytes: int
    version: int
    url: str
    previous: Path | None


def find(timeout_s: float = FIND_S, wanted: str = "") -> list[Service]:
    """The services on the local network, by label. Ends early with the `wanted` one (an id or a label), or without
    such a wish one second after the first. Raises ServiceNotFound where the network cannot be asked."""
    from zeroconf import Error, InterfaceChoice, ServiceBrowser, ServiceStateChange, Zeroconf

    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def seen(*, name: str, state_change: ServiceStateChange, **_: Any) -> None:  # noqa: ANN401
        if state_change is not ServiceStateChange.Removed:
            names.put(name)

    found: dict[str, Service] = {}
    deadline = time.monotonic() + timeout_s
    try:
        with contextlib.closing(Zeroconf(interfaces=InterfaceChoice.All)) as zeroconf:
            ServiceBrowser(zeroconf, wire.SERVICE_TYPE, handlers=[seen])
            while (left_s := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    name = names.get(timeout=left_s)
                    info = zeroconf.get_service_info(wire.SERVICE_TYPE, name, timeout=round(min(left_s, 3.0) * 1000))
                    if info is None:
                        names.put(name)  # nobody answered that question, but the browser tells a name only once
                        continue
                    service = _service(info)
                    if service is None:
                        continue
                    found[service.id] = service
                    if wanted in {service.id, service.label}:
                        return [service]
                    if not wanted:
                        deadline = min(deadline, time.monotonic() + SETTLE_S)
    except (OSError, RuntimeError, Error) as error:
        raise ServiceNotFound(
            f"cannot look for services on this network: {error}",
            "give its address instead: idiolect pull --url http://ADDRESS:8737",
        ) from error
    return sorted((service for service in found.values() if not wanted), key=lambda service: service.label)


class Client:
    """Keeps the newest model for device profile `profile` in the folder `into`.

    `url` is the service's address; without it the service is found by itself: the one pulled from before, else the
    `service` (id or label), else the only one there is.
    """

    def __init__(
        self,
        into: Path | str,
        profile: str,
        *,
        url: str | None = None,
        service: str = "",
        channel: str = "stable",
        timeout_s: float = 10.0,
    ) -> None:
        self._place = Place(Path(into))
        self._profile = profile
        self._url = url.rstrip("/") if url else None
        self._service = service
        self._channel = channel
        self._timeout_s = timeout_s

    def pull(self, on_progress: OnProgress | None = None) -> Pulled:
        """Bring the folder up to date; `on_progress(done, total)` counts the bytes of the files.

        What was there stays in use until all of the new was verified, and after that as the previous version. Raises
        ServiceNotFound, TransferFailed, VerificationFailed, SyncError (nothing offered), UsageError (foreign folder).
        """
        with self._place.locked():
            state, installed = self._place.load(), self._place.installed()
            current = installed is not None and installed.profile == state.profile == self._profile
            etag = state.etag if current and state.channel == self._channel else ""
            url, reply, repo = self._ask(state, etag)
            if reply.status == 304 and installed and etag:
                _refuse_expired(state.expires, url)
                return self._pulled(installed, state.model_copy(update={"url": url}), changed=False)
            manifest = self._verified(reply, state, url, repo)
            state = state.model_copy(
                update={
                    "repo": manifest.repo,
                    "url": url,
                    "version": manifest.version,
                    "manifest_sha256": hashlib.sha256(reply.body).hexdigest(),
                    "expires": manifest.expires,
                    "etag": "",
                    "profile": self._profile,
                    "channel": self._channel,
                }
            )
            self._place.save(state)
            release, artifact = self._choose(manifest, url)
            version = Version(
                release_id=release.id,
                tier=release.tier,
                profile=artifact.profile,
                files={file.path: file.size_bytes for file in artifact.files},
            )
            missing = [file for file in artifact.files if not self._place.has(file)]
            changed = bool(missing) or version != installed
            if changed:
                self._download(url, missing, version, on_progress or (lambda *_: None))
                state = state.model_copy(update={"previous": self._put(version, artifact.files)})
            state = state.model_copy(update={"etag": reply.etag})
            self._place.save(state)
            return self._pulled(version, state, changed=changed)

    def _ask(self, state: State, etag: str) -> tuple[str, fetch.Reply, str]:
        """The first address that answers, its manifest, and the id that the manifest must have, "" for any."""
        wanted = self._service or state.repo
        service = None if self._url else self._found(wanted)
        urls = [self._url] if self._url else [*(service.urls if service else ()), *([state.url] if state.url else ())]
        failure: SyncError = ServiceNotFound(
            f"no idiolect service{wanted and ' ' + wanted} answered on this network",
            "is `idiolect run` running, in the same network? Else give its address: --url http://ADDRESS:8737",
        )
        for url in dict.fromkeys(urls):
            try:
                reply = fetch.get(
                    url, "/v1/manifest", limit_bytes=wire.MAX_MANIFEST_BYTES, timeout_s=self._timeout_s, etag=etag
                )
            except (TransferFailed, VerificationFailed) as error:
                failure = error
                continue
            if reply.status in {200, 304}:
                return url, reply, state.repo or (service.id if service else "")
            failure = TransferFailed(f"{url} answers {reply.status}: {reply.detail or 'no manifest'}")
        raise failure

    def _found(self, wanted: str) -> Service | None:
        services = find(min(self._timeout_s, FIND_S), wanted)
        if len(services) > 1:
            names = ", ".join(f"{service.label} ({service.id})" for service in services)
            raise ServiceNotFound(
                f"there is more than one service: {names}",
                "choose one by its label or id (--service), or by its address (--url)",
            )
        return services[0] if services else None

    def _verified(self, reply: fetch.Reply, state: State, url: str, repo: str) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(reply.body)
        except ValueError as error:
            raise VerificationFailed(f"{url} does not send a manifest", f"another program there? {error}") from error
        forget = f"nothing was changed; if this is meant, remove {self._place.state_file} and pull again"
        if repo not in {"", manifest.repo}:
            raise VerificationFailed(f"{url} is service {manifest.repo}, the models here come from {repo}", forget)
        if manifest.version < state.version:
            raise VerificationFailed(
                f"rollback: {url} offers manifest {manifest.version} and {state.version} was seen before", forget
            )
        if manifest.version == state.version and hashlib.sha256(reply.body).hexdigest() != state.manifest_sha256:
            raise VerificationFailed(f"{url} has changed manifest {manifest.version} after it was published", forget)
        _refuse_expired(manifest.expires, url)
        return manifest

    def _choose(self, manifest: Manifest, url: str) -> tuple[Release, Artifact]:
        found = manifest.current(self._profile, self._channel)
        if found is None:
            profiles = sorted({artifact.profile for release in manifest.releases for artifact in release.artifacts})
            raise SyncError(
                f"{url} has no {self._channel} model for the profile {self._profile!r}",
                f"it has models for: {', '.join(profiles) or 'none yet'}",
            )
        return found

    def _download(self, url: str, missing: list[ArtifactFile], version: Version, on_progress: OnProgress) -> None:
        self._place.keep_only_parts(missing)
        self._refuse_full_disk(missing)
        total = sum(version.files.values())
        done = total - sum(file.size_bytes for file in missing)
        for file in missing:
            tell = functools.partial(_add, on_progress, done, total)
            fetch.download(url, file, self._place.part(file), timeout_s=self._timeout_s, on_bytes=tell)
            done += file.size_bytes
        on_progress(total, total)

    def _put(self, version: Version, files: list[ArtifactFile]) -> str:
        """Swap to the new version; gives the name of the one before."""
        try:
            name = self._place.build(version, files)
            previous = self._place.swap(name)
            self._place.remove_all_but(name, previous)
        except OSError as error:
            raise SyncError(
                f"cannot put the new model into {self._place.into}: {error.strerror}",
                "look at free space and access rights there; what was in use still is",
            ) from error
        return previous

    def _refuse_full_disk(self, missing: list[ArtifactFile]) -> None:
        here = sum(part.stat().st_size for part in map(self._place.part, missing) if part.exists())
        needed_bytes = sum(file.size_bytes for file in missing) - here
        free = free_bytes(self._place.hidden)
        if needed_bytes > free:
            raise TransferFailed(f"the model needs {needed_bytes} bytes and the disk has {free} free", "make room")

    def _pulled(self, version: Version, state: State, *, changed: bool) -> Pulled:
        previous = self._place.hidden / state.previous if state.previous else None
        return Pulled(
            release_id=version.release_id,
            tier=version.tier,
            profile=version.profile,
            changed=changed,
            files=[self._place.into / path for path in version.files],
            size_bytes=sum(version.files.values()),
            version=state.version,
            url=state.url,
            previous=previous if previous and previous.is_dir() else None,
        )


def _add(on_progress: OnProgress, before: int, total: int, size_bytes: int) -> None:
    on_progress(before + size_bytes, total)


def _refuse_expired(expires: datetime | None, url: str) -> None:
    if expires is not None and expires <= wire.utc_now():
        raise VerificationFailed(
            f"the manifest of {url} expired on {expires:%Y-%m-%d %H:%M} UTC",
            "the model you have stays in use; is the clock right, here and there?",
        )


def _service(info: ServiceInfo) -> Service | None:
    """What an announcement says, or None for one that is not ours."""
    texts = info.decoded_properties
    repo, version = texts.get("id") or "", texts.get("mv") or ""
    urls = []
    for text in info.parsed_addresses():
        address = ipaddress.ip_address(text)
        if not address.is_link_local:  # its interface is not told
            urls.append(f"http://[{text}]:{info.port}" if address.version == 6 else f"http://{text}:{info.port}")
    if not urls or not wire.is_repo_id(repo):
        return None
    return Service(repo, info.get_name(), tuple(urls), int(version) if version.isdecimal() else 0)
