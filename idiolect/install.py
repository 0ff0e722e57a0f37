"""Where a pulled model lies: a link that changes in one step, and behind it the versions it can point to.

    models/current -> .current.idiolect/r-0012-desktop-whispercpp-4f1c     what apps open
    models/.current.idiolect/
        r-0012-…-4f1c/  r-0011-…-90ab/     the version in use and the one before
        parts/                             downloads under way, by digest
        state.json                         which service, which manifest
        hook.txt, good.txt                 the version whose hook ended well: the one in use, or one before
        owed.json                          what could not be told to the service

Every version's folder describes itself in `.idiolect.json`. Only what is exactly as described there is ever moved or
removed: a folder of the user, or one the user has put something into, stays.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from idiolect.errors import SyncError, UsageError
from idiolect.files import sha256_file, sync_folder, sync_tree, write_text
from idiolect.trust import Trust
from idiolect.wire import ArtifactFile

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARKER = ".idiolect.json"


class Version(BaseModel):
    """One installed version: `files` maps relative path to size in bytes."""

    model_config = ConfigDict(frozen=True)

    release_id: str
    tier: str
    profile: str
    files: dict[str, int]


class State(BaseModel):
    """What is remembered between pulls. `etag` is set only while all that this manifest asks for is installed."""

    model_config = ConfigDict(frozen=True)

    repo: str = ""
    url: str = ""
    paired_with: str = ""  # the root key that this user was told at pairing
    trust: Trust = Trust()
    etag: str = ""
    profile: str = ""
    channel: str = ""
    previous: str = ""


class Place:
    """The link or folder `into` and the hidden folder beside it."""

    def __init__(self, into: Path) -> None:
        self.into = into.expanduser().absolute()
        self.hidden = self.into.with_name(f".{self.into.name}.idiolect")
        self.parts = self.hidden / "parts"
        self.state_file = self.hidden / "state.json"
        self.owed_file = self.hidden / "owed.json"
        self._hooked, self._good = self.hidden / "hook.txt", self.hidden / "good.txt"
        self._lock: BaseFileLock | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else pulls into this place meanwhile; one Place's own blocks may lie in each other. Raises UsageError
        where `into` is somebody else's."""
        import filelock

        self._refuse_foreign()
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make {self.parts}: {error.strerror}", "choose another folder") from error
        lock = self._lock = self._lock or filelock.FileLock(self.hidden / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise SyncError(
                f"another pull into {self.into} is under way",
                "wait for its end; one with --watch has no end",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def load(self) -> State:
        """The state of the last pull. Raises SyncError where it cannot be read."""
        if not self.state_file.exists():
            return State()
        try:
            return State.model_validate_json(self.state_file.read_bytes())
        except ValueError as error:
            raise SyncError(
                f"{self.state_file} is damaged",
                "remove it; the next pull then takes whichever service it finds for the right one",
            ) from error

    def save(self, state: State) -> None:
        """Remember `state`. Raises SyncError on a full disk."""
        try:
            write_text(self.state_file, state.model_dump_json(indent=1) + "\n", mode=0o600)
        except OSError as error:
            raise SyncError(
                f"cannot write {self.state_file}: {error.strerror}",
                "look at free space and access rights there; what was in use still is",
            ) from error

    def installed(self) -> Version | None:
        """The version that `into` shows, where all its files are there in their size."""
        version = _described(self.into)
        if version is None or any(_size(self.into / path) != size for path, size in version.files.items()):
            return None
        return version

    def part(self, file: ArtifactFile) -> Path:
        """Where `file` is downloaded to."""
        return self.parts / f"{file.sha256}.part"

    def find(self, file: ArtifactFile) -> Path | None:
        """Where exactly this file is already: in the version in use, else in another that is still here."""
        for folder in (self.into, *(each for each in self.hidden.iterdir() if _described(each))):
            path = folder / file.path
            if _size(path) == file.size_bytes and sha256_file(path) == file.sha256:
                return path
        return None

    def keep_only_parts(self, files: list[ArtifactFile]) -> None:
        """Remove downloads under way that no file in `files` needs."""
        wanted = {self.part(file) for file in files}
        for path in set(self.parts.iterdir()) - wanted:
            path.unlink()

    def build(self, version: Version, files: list[ArtifactFile]) -> str:
        """Put `files`, from their parts or from another version, into a new version's folder; gives its name."""
        name = f"{version.release_id}-{version.profile}-{uuid.uuid4().hex[:8]}"
        temporary = self.hidden / f"{name}.tmp"
        self._remove_leftovers()
        for file in files:
            target = temporary / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            part = self.part(file)
            _link_or_copy(part if part.exists() else self.find(file) or part, target)
        write_text(temporary / MARKER, version.model_dump_json(indent=1) + "\n")
        sync_tree(temporary)
        temporary.rename(self.hidden / name)
        sync_folder(self.hidden)
        return name

    def swap(self, name: str) -> str:
        """Let `into` show version `name`. Gives the name of the version it showed before, "" for none.

        With symbolic links this is one rename; where there are none (Windows without the right, FAT) two, and the
        first is undone when the second fails.
        """
        self.hook_due()
        old = self._shown()
        moved = self.into.is_dir() and not self.into.is_symlink()
        if moved and old:
            self.into.rename(self.hidden / old)
        elif moved:
            self.into.rmdir()
        try:
            self._show(name)
        except OSError:
            if moved and old:
                (self.hidden / old).rename(self.into)
            raise
        sync_folder(self.into.parent)
        return old

    def remove_all_but(self, *names: str) -> None:
        """Remove finished downloads and the versions not named, except those the user has changed and the last one
        whose hook ended well."""
        self.keep_only_parts([])
        good = {_text(self._hooked), _text(self._good)} - {_called(self.hidden / name) for name in names}
        for folder in self.hidden.iterdir():
            if folder.name not in names and _is_untouched(folder) and _called(folder) not in good:
                shutil.rmtree(folder)

    def is_hooked(self, release_id: str, profile: str) -> bool:
        """Whether the hook has ended well since this version was put here."""
        return _text(self._hooked) == f"{release_id} {profile}"

    def hook_due(self) -> None:
        """The hook is to be run again; which version was good last stays known."""
        if self._hooked.is_file():
            self._hooked.replace(self._good)

    def hooked(self, release_id: str, profile: str) -> None:
        """It has ended well."""
        write_text(self._hooked, f"{release_id} {profile}\n")

    def _remove_leftovers(self) -> None:
        """Of whoever was killed: half a version, half a file, a link that had not taken its place yet."""
        for leftover in self.hidden.glob("*.tmp"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        for link in self.into.parent.glob(f".{glob.escape(self.into.name)}.????????.link"):
            if link.is_symlink():
                link.unlink()

    def _shown(self) -> str:
        if self.into.is_symlink():
            return self.into.readlink().name
        version = _described(self.into)
        return f"{version.release_id}-{version.profile}-{uuid.uuid4().hex[:8]}" if version else ""

    def _show(self, name: str) -> None:
        link = self.into.with_name(f".{self.into.name}.{uuid.uuid4().hex[:8]}.link")
        try:
            link.symlink_to(Path(self.hidden.name) / name, target_is_directory=True)
        except (OSError, NotImplementedError):
            (self.hidden / name).rename(self.into)
            return
        try:
            link.replace(self.into)
        except OSError:
            link.unlink()
            raise

    def _refuse_foreign(self) -> None:
        if self.into.is_symlink():
            ours = self.into.readlink().parent == Path(self.hidden.name)
        elif self.into.is_dir():
            ours = not any(self.into.iterdir()) or _is_untouched(self.into)
        else:
            ours = not self.into.exists()
        if not ours:
            raise UsageError(
                f"{self.into} exists and was not put there by idiolect, or holds files of yours",
                "nothing was changed; move it away or choose another folder",
            )


def _described(folder: Path) -> Version | None:
    with contextlib.suppress(OSError, ValueError):
        return Version.model_validate_json((folder / MARKER).read_bytes())
    return None


def _is_untouched(folder: Path) -> bool:
    """True for a version's folder in which nothing lies that is not of the version."""
    version = _described(folder)
    if version is None:
        return False
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return found <= {MARKER, *version.files}


def _called(folder: Path) -> str:
    version = _described(folder)
    return f"{version.release_id} {version.profile}" if version else ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
