"""Every error idiolect raises on purpose.

IdiolectError
├── UsageError             a value given by the user cannot be used
│   └── ConfigError        … and it stands in a configuration or profile file
├── MissingExtra           an optional package is not installed
├── AlreadyRunning         another daemon holds this home
├── NotRunning             a command needs a running daemon and there is none
├── AudioError             a file cannot be decoded to usable speech
│   └── UnfinishedAudio    … because the rest of it has not come yet
├── DatasetError           a folder of recordings cannot be used as a dataset
├── CheckpointError        a model folder is damaged or of a kind no exporter takes
├── ExportError            an artifact could not be made
├── ArtifactError          an exported file is damaged or not what it claims to be
├── RuntimeFailed          a speech runtime refused or crashed
├── JobError               a training job failed
│   └── JobStopped         … because it was asked to stop; it continues later
├── StoreError             the release store refused a change
└── SyncError              talking to an idiolect service failed
    ├── ServiceNotFound    nobody answered on the network
    ├── NotPaired          the service does not know this device, or this device no such service
    ├── TransferFailed     the connection broke, or the server said no
    ├── VerificationFailed what arrived is not what was promised
    ├── ModelRefused       the app could not use the new model; the one before stays in use
    └── HookFailed         the new model is there, and the program to be run after it failed
"""

from __future__ import annotations


class IdiolectError(Exception):
    """Base of all errors: `message` says what is wrong, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The class name, as it travels in a child process's error message."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(IdiolectError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class MissingExtra(IdiolectError):
    """An optional package is missing; the hint is the command that installs it."""

    exit_code = 3

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"this needs the package {package}, which is not installed",
            f'install it with: pip install "idiolect[{extra}]"',
        )
        self.extra = extra
        self.package = package


class AlreadyRunning(IdiolectError):
    exit_code = 3


class NotRunning(IdiolectError):
    exit_code = 3


class AudioError(IdiolectError):
    pass


class UnfinishedAudio(AudioError):
    pass


class DatasetError(IdiolectError):
    pass


class CheckpointError(IdiolectError):
    pass


class ExportError(IdiolectError):
    pass


class ArtifactError(IdiolectError):
    pass


class RuntimeFailed(IdiolectError):
    pass


class JobError(IdiolectError):
    pass


class JobStopped(JobError):
    exit_code = 130


class StoreError(IdiolectError):
    pass


class SyncError(IdiolectError):
    exit_code = 4


class ServiceNotFound(SyncError):
    pass


class NotPaired(SyncError):
    exit_code = 6


class TransferFailed(SyncError):
    pass


class VerificationFailed(SyncError):
    exit_code = 5


class ModelRefused(SyncError):
    exit_code = 8


class HookFailed(SyncError):
    exit_code = 7


def one_line(error: Exception) -> str:
    """What an error says: ours with its hint, another as it is."""
    return "; ".join(filter(None, (error.message, error.hint))) if isinstance(error, IdiolectError) else str(error)


def first_line(error: Exception) -> str:
    """What a library's error says at its beginning, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require(package: str, extra: str) -> None:
    """Raise MissingExtra unless `package` can be imported; nothing is imported to find out."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtra(extra, package)
