"""Find an idiolect service, take its newest model for one kind of device, and put it in place whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect import connection as connections
from idiolect import fetch, wire
from idiolect.connection import Connection
from idiolect.errors import HookFailed, ModelRefused, ServiceNotFound, SyncError, TransferFailed, VerificationFailed
from idiolect.files import free_bytes, write_text
from idiolect.install import Place, State, Version
from idiolect.pairing import Pairing, Pairings
from idiolect.trust import FetchRoot, Trust, refuse_expired
from idiolect.wire import Artifact, ArtifactFile, Manifest, Release

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

    from idiolect.hook import Hook

SETTLE_S = 1.0  # after the first service, so that a second one in the same house is seen too

FIND_S = 5.0
KNOWN_ADDRESS_S = 3.0
"""How long the addresses of last time may take before the network is asked."""
BROWSE_STEP_S = 0.2
ASK_MS = 1000

_UNTOLD = {0, 429, *range(500, 600)}

Check = Callable[[Path], object]

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
    """What is in place now, at `into`. `previous` is the folder of the version before, where there is one."""

    release_id: str
    tier: str
    profile: str
    changed: bool
    into: Path
    files: list[Path]
    size_bytes: int
    version: int
    url: str
    previous: Path | None


def find(timeout_s: float = FIND_S, wanted: str = "") -> list[Service]:
    """The services on the local network, by label. Ends early with the `wanted` one (an id or a label), or without
    such a wish one second after the first. Raises ServiceNotFound where the network cannot be asked."""
    found: dict[str, Service] = {}
    deadline = time.monotonic() + timeout_s
    for service in browse(lambda: time.monotonic() < deadline):  # noqa: B023 (it is meant to see the deadline move)
        found[service.id] = service
        if wanted in {service.id, service.label}:
            return [service]
        if not wanted:
            deadline = min(deadline, time.monotonic() + SETTLE_S)
    return sorted((service for service in found.values() if not wanted), key=lambda service: service.label)


def browse(is_wanted: Callable[[], bool]) -> Iterator[Service]:
    """Services on the local network as they are seen, while `is_wanted`. Several may claim one id: it is a hint.

    Raises ServiceNotFound where the network cannot be asked."""
    from zeroconf import Error, InterfaceChoice, ServiceBrowser, ServiceStateChange, Zeroconf

    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def seen(*, name: str, state_change: ServiceStateChange, **_: Any) -> None:  # noqa: ANN401
        if state_change is not ServiceStateChange.Removed:
            names.put(name)

    try:
        with contextlib.closing(Zeroconf(interfaces=InterfaceChoice.All)) as zeroconf:
            ServiceBrowser(zeroconf, wire.SERVICE_TYPE, handlers=[seen])
            while is_wanted():
                with contextlib.suppress(queue.Empty):
                    name = names.get(timeout=BROWSE_STEP_S)
                    info = zeroconf.get_service_info(wire.SERVICE_TYPE, name, timeout=ASK_MS)
                    if info is None:
                        names.put(name)  # nobody answered that question, but the browser tells a name only once
                    elif service := _service(info):
                        yield service
    except (OSError, RuntimeError, Error) as error:
        raise ServiceNotFound(
            f"cannot look for services on this network: {error}",
            "give its address instead: idiolect pull --url https://ADDRESS:8737",
        ) from error


def reach(pairing: Pairing, known_urls: Sequence[str], timeout_s: float) -> Connection:
    """The service that `pairing` is with, at one of the known addresses, else where the network finds it now.

    Wherever that is, it has just shown its key. Raises ServiceNotFound, TransferFailed, VerificationFailed."""
    connection = pairing.connection()
    try:
        return connections.reach(connection, known_urls, min(KNOWN_ADDRESS_S, timeout_s))
    except (ServiceNotFound, TransferFailed, VerificationFailed) as failure:
        done, deadline_s = threading.Event(), time.monotonic() + min(timeout_s, FIND_S)
        announced = browse(lambda: not done.is_set() and time.monotonic() < deadline_s)
        urls = (url for service in announced if service.id == pairing.id for url in service.urls)
        try:
            return connections.reach(connection, urls, timeout_s, done)
        except ServiceNotFound:
            raise failure from None


class Client:
    """Keeps the newest model for device profile `profile` in the folder `into`.

    The service is the one that `pairing` is with, else the `service` (id or label) among those this user is paired
    with, else the one pulled from before, else the only one. It is reached at `url`, else where it was last, else
    where the network finds it; wherever that is, it has to show the key it was paired with.

    `check` is given the folder of each new model before that is put in place, to load it: what it raises keeps the
    model out, and a float it gives is the word error rate that it has measured. The service is told what came of it.
    """

    def __init__(
        self,
        into: Path | str,
        profile: str,
        *,
        url: str | None = None,
        pairing: Pairing | None = None,
        service: str = "",
        channel: str = "stable",
        timeout_s: float = 10.0,
        check: Check | None = None,
    ) -> None:
        self._place = Place(Path(into))
        self._profile = profile
        self._url = url.rstrip("/") if url else None
        self._pairing = pairing
        self._pairings = Pairings()
        self._service = service
        self._channel = channel
        self._timeout_s = timeout_s
        self._check = check
        self._wer: float | None = None  # as the check has measured it
        self._connection: Connection | None = None
        self.on_busy: fetch.OnBusy = lambda _: None
        """Hears that the service sends to other devices first, when it does; the pull waits for its turn."""

    def pull(self, on_progress: OnProgress | None = None, *, wait_s: float = 0.0) -> Pulled:
        """Bring the folder up to date; `on_progress(done, total)` counts the bytes of the files.

        Where it is up to date already, wait for news for `wait_s`, 25 s at most.

        What was there stays in use until all of the new was verified, and after that as the previous version. Raises
        NotPaired, ServiceNotFound, TransferFailed, VerificationFailed, SyncError (nothing offered), UsageError (foreign
        folder), ModelRefused (by the `check`; it is not tried again before something else is published).
        """
        with self._place.locked():
            now = wire.utc_now()
            state, installed = self._place.load(), self._place.installed()
            current = installed is not None and installed.profile == state.profile == self._profile
            etag = state.etag if current and state.channel == self._channel else ""
            pairing = self._pairing or self._pairings.choose(self._service or state.repo, self._url or "")
            connection = self._connection = self._reach(pairing, state)
            reply, url = self._ask(connection, etag, wait_s), connection.url
            now = wire.utc_now() if wait_s else now
            self._tell_owed(same_service=state.repo == pairing.id)
            with self._naming(url):
                if reply.status == 304 and installed and etag:
                    refuse_expired(state.trust.expires, now)
                    return self._pulled(installed, state.model_copy(update={"url": url}), changed=False)
                trust, manifest = _trust(state, pairing).take(reply.body, pairing.id, now, self._roots(connection))
            state = state.model_copy(
                update={
                    "repo": manifest.repo,
                    "url": url,
                    "paired_with": pairing.root_key,
                    "trust": trust,
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
            found = {file.path: self._place.find(file) for file in artifact.files}
            changed = version != installed or any(at != self._place.into / path for path, at in found.items())
            settled = state.model_copy(update={"etag": reply.etag})
            if changed:
                missing = [file for file in artifact.files if not found[file.path]]
                self._download(connection, missing, version, on_progress or (lambda *_: None))
                try:
                    settled = settled.model_copy(update={"previous": self._put(version, artifact.files)})
                except ModelRefused as refused:
                    self._place.save(settled)
                    self.report(version, loaded=False, error=refused.message)
                    raise
                if self._check:
                    self.report(version, loaded=True)
            self._place.save(settled)
            return self._pulled(version, settled, changed=changed)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Within it no other process may pull into this folder. Raises SyncError where one does, UsageError."""
        return self._place.locked()

    def run_hook(self, hook: Hook, pulled: Pulled) -> bool:
        """Run it where what was pulled is new, or where it has not been run to a good end for this release; True where
        it was. Raises HookFailed."""
        release = pulled.release_id, pulled.profile
        if not pulled.changed and self._place.is_hooked(*release):
            return False
        self._place.hook_due()
        hook.run(pulled)
        self._place.hooked(*release)
        return True

    def settle(self, pulled: Pulled, hook: Hook | None = None) -> None:
        """Run the hook where that is due, and tell the service what is held and, by the hook, whether it can be used.
        Raises HookFailed."""
        try:
            ran = hook is not None and self.run_hook(hook, pulled)
        except HookFailed as failure:
            self.report(pulled, loaded=False, error=failure.message)
            raise
        if ran or pulled.changed:
            self.report(pulled, loaded=True if ran else None)

    def report(self, held: Pulled | Version, *, loaded: bool | None = None, error: str = "") -> bool:
        """Tell the service what this device holds now, and whether it could be loaded where that was tried. False where
        that could not be told, which changes nothing here; the next pull tells it then."""
        wer = self._wer if loaded else None
        said = wire.Report(release=held.release_id, profile=held.profile, loaded=loaded, wer=wer, error=error[:500])
        status = self._tell(said)
        if status in _UNTOLD:
            with contextlib.suppress(OSError):
                write_text(self._place.owed_file, wire.dump(said).decode(), mode=0o600)
        return status == 204

    def _tell_owed(self, *, same_service: bool) -> None:
        """What could not be told last time: for a canary the others wait for its word."""
        with contextlib.suppress(OSError):
            if self._place.owed_file.is_file():
                with contextlib.suppress(ValueError):
                    said = wire.Report.model_validate_json(self._place.owed_file.read_bytes())
                    if same_service and self._tell(said) in _UNTOLD:
                        return
                self._place.owed_file.unlink()

    def _tell(self, said: wire.Report) -> int:
        """The status it is answered with; 0: none."""
        if self._connection is None:
            return 0
        try:
            with self._connection.request(
                "/v1/reports",
                method="POST",
                headers={"Content-Type": "application/json"},
                body=wire.dump(said),
                timeout_s=self._timeout_s,
            ) as response:
                return response.status
        except (OSError, http.client.HTTPException, SyncError):
            return 0

    def _reach(self, pairing: Pairing, state: State) -> Connection:
        """The service at an address where it has just shown its key."""
        if self._url:
            return pairing.connection().at(self._url)
        last = [state.url] if state.repo == pairing.id and state.url else []
        found = reach(pairing, [*last, *pairing.urls], self._timeout_s)
        if self._pairing is None and pairing.urls[:1] != (found.url,):
            self._pairings.save(pairing.known_at(found.url))
        return found

    def _ask(self, connection: Connection, etag: str, wait_s: float) -> fetch.Reply:
        """The manifest, or 304 where it still is the one with `etag`."""
        reply = fetch.get(
            connection,
            "/v1/manifest",
            limit_bytes=wire.MAX_MANIFEST_BYTES,
            timeout_s=self._timeout_s,
            etag=etag,
            wait_s=wait_s,
        )
        if reply.status in {401, 403}:
            raise fetch.no_longer_let_in(connection.url)
        if reply.status not in {200, 304}:
            raise TransferFailed(f"{connection.url} answers {reply.status}: {reply.detail or 'no manifest'}")
        return reply

    def _roots(self, connection: Connection) -> FetchRoot:
        def root(version: int) -> bytes:
            reply = fetch.get(
                connection, f"/v1/root/{version}", limit_bytes=wire.MAX_ROOT_BYTES, timeout_s=self._timeout_s
            )
            if reply.status != 200:
                raise VerificationFailed(f"root {version} cannot be had: it answers {reply.status}")
            return reply.body

        return root

    @contextlib.contextmanager
    def _naming(self, url: str) -> Iterator[None]:
        """Say of what is not believed where it came from, and how to forget what was seen before."""
        try:
            yield
        except VerificationFailed as failure:
            hint = f"{failure.hint or 'nothing was changed'}; to forget what was seen, remove {self._place.state_file}"
            raise VerificationFailed(f"{url}: {failure.message}", hint) from failure

    def _choose(self, manifest: Manifest, url: str) -> tuple[Release, Artifact]:
        found = manifest.current(self._profile, self._channel)
        if found is None:
            profiles = sorted({artifact.profile for release in manifest.releases for artifact in release.artifacts})
            raise SyncError(
                f"{url} has no {self._channel} model for the profile {self._profile!r}",
                f"it has models for: {', '.join(profiles) or 'none yet'}",
            )
        return found

    def _download(
        self, connection: Connection, missing: list[ArtifactFile], version: Version, on_progress: OnProgress
    ) -> None:
        self._place.keep_only_parts(missing)
        self._refuse_full_disk(missing)
        total = sum(version.files.values())
        done = total - sum(file.size_bytes for file in missing)
        for file in missing:
            tell = functools.partial(_add, on_progress, done, total)
            part, timeout_s = self._place.part(file), self._timeout_s
            fetch.download(connection, file, part, timeout_s=timeout_s, on_bytes=tell, on_busy=self.on_busy)
            done += file.size_bytes
        on_progress(total, total)

    def _put(self, version: Version, files: list[ArtifactFile]) -> str:
        """Swap to the new version, where it can be used; gives the name of the one before."""
        try:
            name = self._place.build(version, files)
            if self._check:
                self._try(version, self._place.hidden / name, self._check)
            previous = self._place.swap(name)
            self._place.remove_all_but(name, previous)
        except OSError as error:
            raise SyncError(
                f"cannot put the new model into {self._place.into}: {error.strerror}",
                "look at free space and access rights there; what was in use still is",
            ) from error
        return previous

    def _try(self, version: Version, folder: Path, check: Check) -> None:
        try:
            found = check(folder)
            self._wer = found if isinstance(found, float) and found >= 0 else None
        except Exception as error:
            shutil.rmtree(folder)
            raise ModelRefused(
                f"{version.release_id} cannot be used here: {type(error).__name__}: {error}",
                "what was in use still is; the service was told",
            ) from error

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
            into=self._place.into,
            files=[self._place.into / path for path in version.files],
            size_bytes=sum(version.files.values()),
            version=state.trust.version,
            url=state.url,
            previous=previous if previous and previous.is_dir() else None,
        )


def _add(on_progress: OnProgress, before: int, total: int, size_bytes: int) -> None:
    on_progress(before + size_bytes, total)


def _trust(state: State, pairing: Pairing) -> Trust:
    """What was believed so far; after another pairing only what that one told."""
    if state.repo == pairing.id and state.paired_with == pairing.root_key:
        return state.trust
    return Trust(root_key=pairing.root_key)


def _service(info: ServiceInfo) -> Service | None:
    """What an announcement says, or None for one that is not ours."""
    texts = info.decoded_properties
    repo, version = texts.get("id") or "", texts.get("mv") or ""
    urls = []
    for text in info.parsed_addresses():
        address = ipaddress.ip_address(text)
        if not address.is_link_local:  # its interface is not told
            urls.append(f"https://[{text}]:{info.port}" if address.version == 6 else f"https://{text}:{info.port}")
    if not urls or not wire.is_repo_id(repo) or texts.get("tls") != "1":
        return None
    return Service(repo, info.get_name(), tuple(urls), int(version) if version.isdecimal() else 0)
