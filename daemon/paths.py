"""Where everything of one home lies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from idiolect.errors import AlreadyRunning, ConfigError

HOME_VARIABLE = "IDIOLECT_HOME"
MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 104 on macOS and 108 on Linux, both with the closing zero


@dataclass(frozen=True)
class Paths:
    """Every path of one home, absolute; make it with `Paths.at`."""

    config_file: Path
    profiles_dir: Path
    vocabulary_file: Path
    """The user's own words, one a line."""
    state: Path
    library_db: Path
    runs: Path
    store: Path
    control_socket: Path
    lock_file: Path
    pid_file: Path
    log_file: Path
    cache: Path
    recordings: Path
    """The folder that is watched when the configuration names none."""
    keys: Path
    devices_db: Path
    inbox: Path
    """What devices have sent and the user has not looked at yet."""
    pairings: Path
    """The services that this user is paired with, this machine's own among them."""
    models: Path
    """Where `idiolect pull` and `idiolect train` put models."""

    @classmethod
    def at(cls, home: Path | None = None) -> Paths:
        """All under `home`, else under $IDIOLECT_HOME, else where the operating system wants such files."""
        if home is None and os.environ.get(HOME_VARIABLE):
            home = Path(os.environ[HOME_VARIABLE])
        if home is None:
            return _of_the_system()
        home = home.expanduser().absolute()
        return _under(home, home / "state", home / "cache", home)

    def make(self) -> None:
        """Create the private folders (0700): configuration, state and cache. Raises ConfigError where that fails."""
        for folder in (self.config_file.parent, self.profiles_dir, self.state, self.runs, self.cache):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigError(
                    f"cannot make the folder {folder}: {error.strerror}",
                    f"make it writable, or choose another home with --home DIR or {HOME_VARIABLE}=DIR",
                ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this home alone, as a daemon or as a command that acts itself. Raises AlreadyRunning with the pid."""
        import filelock

        self.make()
        lock = filelock.FileLock(self.lock_file, mode=0o600)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise AlreadyRunning(
                f"another idiolect{self._holder()} already uses {self.state}",
                "use that one (`idiolect status`), stop it, or choose another home with --home DIR",
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{self.state} cannot be written: {error.strerror}",
                f"make it writable, or choose another home with --home DIR or {HOME_VARIABLE}=DIR",
            ) from error
        try:
            with contextlib.suppress(OSError):  # it only helps the message above; the disk may be full
                self.pid_file.write_text(f"{os.getpid()}\n")
            yield
        finally:
            with contextlib.suppress(OSError):
                self.pid_file.unlink(missing_ok=True)
            lock.release()

    def _holder(self) -> str:
        # Its own file: filelock empties the lock file at every attempt, the failed ones too.
        with contextlib.suppress(OSError):
            if pid := self.pid_file.read_text().strip():
                return f" (pid {pid})"
        return ""


def _of_the_system() -> Paths:
    import platformdirs

    name = "idiolect"
    return _under(
        platformdirs.user_config_path(name, appauthor=False),
        platformdirs.user_state_path(name, appauthor=False),
        platformdirs.user_cache_path(name, appauthor=False),
        Path.home() / name,
    )


def _under(config: Path, state: Path, cache: Path, documents: Path) -> Paths:
    return Paths(
        config_file=config / "config.toml",
        profiles_dir=config / "profiles",
        vocabulary_file=config / "vocabulary.txt",
        state=state,
        library_db=state / "library.sqlite3",
        runs=state / "runs",
        store=state / "store",
        control_socket=_socket_path(state / "control.sock"),
        lock_file=state / "daemon.lock",
        pid_file=state / "daemon.pid",
        log_file=state / "daemon.log",
        cache=cache,
        recordings=documents / "recordings",
        keys=state / "keys",
        devices_db=state / "devices.sqlite3",
        inbox=state / "inbox",
        pairings=state / "pairings",
        models=documents / "models",
    )


def _socket_path(path: Path) -> Path:
    """`path`, or where that is too long for a unix socket a short one of this user that both ends work out alike."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    # Not $TMPDIR where /tmp exists: a service and a shell often differ in it.
    temporary = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    user = os.getuid() if hasattr(os, "getuid") else "user"
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return temporary / f"idiolect-{user}-{digest}" / "control.sock"
