"""`idiolect backup` and `idiolect restore`: library, keys, settings and releases as one tar file.

    idiolect-backup.json    {"format": 1, "manifest_version": …}
    config/…                config.toml, vocabulary.txt, profiles/
    state/…                 all of the state folder but what can be made again, with the library as one consistent copy

Left out are recordings (the user's own), checkpoints and exports of runs, logs, locks, caches.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.sync.releases import ReleaseStore
from idiolect.errors import StoreError, UsageError
from idiolect.files import folder_bytes, replacing, sha256_file, sync_tree

FORMAT = 1
LABEL = "idiolect-backup.json"
TRIES = 5
OF_A_RUN = ("run.json", "result.json", "trained.json")
VERSIONS_SKIPPED = 1000
"""A device that saw more publications than the backup holds takes no lower version: the next one is so much higher."""


@dataclass(frozen=True)
class Contents:
    """How much a backup holds."""

    files: int
    size_bytes: int


def save(paths: Paths, file: Path, *, force: bool = False) -> Contents:
    """Write the backup, whole or not at all; a running daemon may go on. Raises UsageError, StoreError."""
    if file.exists() and not force:
        raise UsageError(f"{file} exists already", "name another file, or replace it with --force")
    if not paths.state.is_dir():
        raise UsageError(f"there is nothing to keep: {paths.state} does not exist", "idiolect init")
    try:
        with replacing(file, mode=0o600) as archive:
            for _ in range(TRIES):
                archive.seek(0)
                archive.truncate()
                before = _published_version(paths.store)
                with contextlib.suppress(FileNotFoundError):  # a publication removed what nobody needs any more
                    contents = _write(paths, archive, before)
                    if _published_version(paths.store) == before:
                        return contents
            raise StoreError("the release store changes all the time", "try again when no model is being published")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", "name a place that can be written") from error


def load(paths: Paths, file: Path) -> Contents:
    """Put the backup into a home that holds no library and no releases. Raises UsageError, StoreError, AlreadyRunning;
    nothing has changed then."""
    with paths.locked():
        taken = [path for path in (paths.library_db, paths.store / "current") if path.exists()]
        if taken:
            raise UsageError(f"{taken[0]} exists already", "restore into another home: --home DIR")
        with tempfile.TemporaryDirectory(dir=paths.state, prefix=".restore-") as temporary:
            unpacked = Path(temporary)
            _unpack(file, unpacked)
            _keep_others(unpacked / "config", paths.config_file.parent)
            _check(unpacked / "state")
            contents = Contents(sum(1 for path in unpacked.rglob("*") if path.is_file()), folder_bytes(unpacked))
            sync_tree(unpacked)
            _put(unpacked / "config", paths.config_file.parent)
            _put(unpacked / "state", paths.state)
    return contents


def _write(paths: Paths, archive: IO[bytes], version: int) -> Contents:
    files, size_bytes = 0, 0
    with tarfile.open(fileobj=archive, mode="w") as tar, tempfile.TemporaryDirectory() as temporary:
        label = json.dumps({"format": FORMAT, "manifest_version": version}).encode()
        info = tarfile.TarInfo(LABEL)
        info.size = len(label)
        tar.addfile(info, BytesIO(label))
        for path, name in _chosen(paths, Path(temporary)):
            tar.add(path, name, recursive=False)
            files, size_bytes = files + 1, size_bytes + path.stat().st_size
    return Contents(files, size_bytes)


def _chosen(paths: Paths, temporary: Path) -> Iterator[tuple[Path, str]]:
    """Every file to keep, and its name in the archive."""
    if paths.library_db.exists():
        copy = temporary / paths.library_db.name
        with (
            contextlib.closing(sqlite3.connect(paths.library_db)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        yield copy, f"state/{paths.library_db.name}"
    for path in sorted(paths.state.rglob("*")):
        relative = path.relative_to(paths.state)
        if path.is_file() and not path.is_symlink() and _is_kept(relative, paths):
            yield path, f"state/{relative.as_posix()}"
    config = paths.config_file.parent
    for path in (paths.config_file, paths.vocabulary_file, *sorted(paths.profiles_dir.glob("*.toml"))):
        if path.is_file():
            yield path, f"config/{path.relative_to(config).as_posix()}"


def _is_kept(relative: Path, paths: Paths) -> bool:
    first, last = relative.parts[0], relative.name
    if first == paths.runs.name:
        return last in OF_A_RUN and len(relative.parts) == 3
    if first == paths.store.name and len(relative.parts) > 2 and relative.parts[1] == "tmp":
        return False
    private = {paths.lock_file.name, paths.pid_file.name, paths.control_socket.name}
    made_again = last in private or last.startswith((".", paths.log_file.name, paths.library_db.name))
    return not made_again and not last.endswith((".tmp", ".lock"))


def _published_version(store: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((store / "current").read_text())
    return 0


def _unpack(file: Path, into: Path) -> None:
    try:
        with tarfile.open(file, "r:") as tar:
            members = tar.getmembers()
            label = tar.extractfile(LABEL) if LABEL in tar.getnames() else None
            if label is None or json.load(label).get("format") != FORMAT:
                raise UsageError(f"{file} is no backup of this idiolect", "name a file that `idiolect backup` wrote")
            for member in members:
                parts = PurePosixPath(member.name).parts
                if member.name != LABEL and (not member.isfile() or parts[0] not in {"config", "state"}):
                    raise UsageError(f"{file} holds {member.name!r}, which no backup does", "do not use it")
            tar.extractall(into, [member for member in members if member.name != LABEL], filter="data")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}", "name a backup") from error
    except (tarfile.TarError, ValueError) as error:
        raise UsageError(f"{file} is damaged: {error}", "use another backup") from error


def _check(state: Path) -> None:
    """The library opens and every published file is what its name says; versions go on above those given out."""
    state.mkdir(exist_ok=True)
    Library(state / "library.sqlite3").close()
    store = ReleaseStore(state / "store")
    for sha256 in store.published.files if store.published else ():
        blob = store.blob(sha256)
        if blob is None or not blob.is_file() or sha256_file(blob) != sha256:
            raise StoreError(f"the backup is damaged: file {sha256[:12]}… of a release", "use another backup")
    if store.manifest:
        manifests = state / "store" / "manifests"
        shutil.copyfile(manifests / f"{store.version}.dsse", manifests / f"{store.version + VERSIONS_SKIPPED}.dsse")


def _keep_others(source: Path, target: Path) -> None:
    """Raise UsageError for settings that are there and other than those of the backup."""
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        place = target / path.relative_to(source)
        if path.is_file() and place.exists() and place.read_bytes() != path.read_bytes():
            raise UsageError(
                f"{place} exists already, and the backup holds another", "move it away, or restore with: --home DIR"
            )


def _put(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with path.open("rb") as kept, replacing(place, mode=path.stat().st_mode & 0o777) as file:
                    shutil.copyfileobj(kept, file)  # settings may lie on another file system than the state
