"""`idiolect doctor`: probes of everything the daemon stands on, each with a fix. Nothing is changed.

A probe is a function of a `Patient` in PROBES; it finds one fact, and an error it raises is a finding, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from daemon.config import Config, load
from daemon.paths import Paths
from exporters.kinds import RUNTIMES
from idiolect.errors import IdiolectError, NotRunning
from idiolect.files import free_bytes
from training import base_models

State = Literal["ok", "warn", "bad"]
GB = 1e9
FUTURE_S = 120.0
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
MDNS_GROUP, MDNS_PORT = "224.0.0.251", 5353
DECODE = (
    "import sys; from pathlib import Path; from training.audio import decode; print(len(decode(Path(sys.argv[1]))))"
)


@dataclass(frozen=True)
class Finding:
    """What a probe found: "bad" keeps the daemon from its work, "warn" from a part of it. `fix` is what to do."""

    about: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Patient:
    """The home that is looked at. `status` is the running daemon's, None without one."""

    paths: Paths
    config: Config
    status: dict[str, Any] | None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The watched folders."""
        return self.config.recordings.folders or (self.paths.recordings,)


Probe = Callable[[Patient], Iterator[Finding] | Finding]


def examine(paths: Paths) -> Iterator[Finding]:
    """All findings, one after the other as the probes end."""
    try:
        patient = Patient(paths, load(paths.config_file), _running(paths))
        yield _settings(patient)
    except IdiolectError as error:
        yield Finding("settings", "bad", error.message, error.hint)
        return
    for about, probe in PROBES.items():
        try:
            found = probe(patient)
            yield from [found] if isinstance(found, Finding) else found
        except IdiolectError as error:
            yield Finding(about, "bad", error.message, error.hint)
        except Exception as error:  # what is broken here may break in any way
            yield Finding(about, "bad", f"{type(error).__name__}: {error}", f"look for more in {paths.log_file}")


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """What `idiolect doctor --json` prints."""
    return {"ok": all(finding.state != "bad" for finding in findings), "findings": [asdict(each) for each in findings]}


def _running(paths: Paths) -> dict[str, Any] | None:
    from daemon.sync.control import ask

    with contextlib.suppress(NotRunning):
        return ask(paths, "status")
    return None


def _settings(patient: Patient) -> Finding:
    from daemon.rooms import Rooms

    Rooms.check(patient.paths, patient.config)
    file = patient.paths.config_file
    if not file.exists():
        return Finding("settings", "ok", f"{file} does not exist; the defaults hold", "idiolect init writes one")
    return Finding("settings", "ok", str(file))


def _daemon(patient: Patient) -> Finding:
    if patient.status is None:
        return Finding("daemon", "warn", "not running", "idiolect run, or for good: idiolect service install")
    found, warnings = f"runs, pid {patient.status['pid']}", patient.status["warnings"]
    if warnings:
        return Finding(
            "daemon", "warn", f"{found}: {'; '.join(warnings)}", f"mend that; more is in {patient.paths.log_file}"
        )
    return Finding("daemon", "ok", found)


def _folders(patient: Patient) -> Iterator[Finding]:
    from daemon.intake.watcher import is_remote

    for folder in patient.folders:
        if not folder.is_dir():
            yield Finding(
                "folder",
                "bad",
                f"{folder} does not exist",
                "idiolect init makes the usual one; or change [recordings] folders",
            )
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield Finding("folder", "bad", f"{folder} cannot be read", f"chmod u+rx {folder}")
        elif is_remote(folder):
            yield Finding("folder", "ok", f"{folder} is on a network mount: it is looked through now and then")
        else:
            yield Finding("folder", "ok", str(folder))


def _permissions(patient: Patient) -> Iterator[Finding]:
    for folder in (patient.paths.state, patient.paths.config_file.parent, patient.paths.cache):
        if not folder.exists():
            yield Finding("permissions", "ok", f"{folder} will be made")
            continue
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0")
        except OSError as error:
            yield Finding(
                "permissions", "bad", f"{folder} cannot be written: {error.strerror}", f"chmod u+rwx {folder}"
            )
            continue
        if os.name == "posix" and folder == patient.paths.state and folder.stat().st_mode & 0o077:
            yield Finding("permissions", "warn", f"{folder} can be read by other users", f"chmod 700 {folder}")
        else:
            yield Finding("permissions", "ok", f"{folder} can be written")


def _decoder(patient: Patient) -> Finding:
    clip = next((base_models.NANO_ARCHIVE.parent / "voices" / "human").glob("*.ogg"))
    command = [sys.executable, "-P", "-c", DECODE, str(clip)]  # a decoder that crashes must not end this
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return Finding("decoder", "bad", f"audio cannot be decoded: {said}", "pip install --force-reinstall av numpy")
    return Finding("decoder", "ok", "reads Ogg Opus")


def _disk(patient: Patient) -> Finding:
    need = patient.config.conditions.min_free_disk_gb
    free = free_bytes(patient.paths.state) / GB
    if free < need:
        fix = "free some space, or lower [conditions] min_free_disk_gb"
        return Finding("disk", "bad", f"{free:.1f} GB are free, a training wants {need:g}", fix)
    return Finding("disk", "ok", f"{free:.1f} GB are free")


def _models(patient: Patient) -> Iterator[Finding]:
    for tier in patient.config.training.tiers:
        base = patient.config.base(tier)
        if base_models.is_cached(base, patient.paths.cache):
            yield Finding("models", "ok", f"{base} is here")
        else:
            yield Finding("models", "bad", f"{base} is not on this machine", f"idiolect models fetch {base}")


def _training(patient: Patient) -> Finding:
    missing = [name for name in ("torch", "transformers", "safetensors", "accelerate") if find_spec(name) is None]
    if missing:
        return Finding("training", "bad", f"not installed: {', '.join(missing)}", 'pip install "idiolect[train]"')
    return Finding("training", "ok", "PyTorch and transformers are installed")


def _runtimes(patient: Patient) -> Iterator[Finding]:
    import device_profiles

    known = device_profiles.load(patient.paths.profiles_dir, patient.config.profiles, patient.paths.config_file)
    formats = {known[name].format: name for name in patient.config.export.profiles if name in known}
    for format, profile in formats.items():
        package, extra = RUNTIMES.get(format, ("", ""))
        if package and find_spec(package) is None:
            found = f"{package} is not installed: exports for {profile} cannot be checked, so they are not published"
            yield Finding("runtimes", "bad", found, f'pip install "idiolect[{extra}]"')
        else:
            yield Finding("runtimes", "ok", f"{format}: {package or 'needs none'}")


def _gpu(patient: Patient) -> Finding:
    if find_spec("torch") is None:
        return Finding("gpu", "ok", "not looked for: PyTorch is not installed")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("gpu", "bad", f"PyTorch cannot be loaded: {error}", "install it again: make setup TORCH=cpu")
    if torch.cuda.is_available():
        return Finding("gpu", "ok", torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return Finding("gpu", "ok", "Apple GPU")
    if any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd")):
        fix = "install PyTorch for it: make setup TORCH=cuda (or rocm)"
        return Finding("gpu", "warn", "there is a GPU that this PyTorch cannot use", fix)
    return Finding("gpu", "ok", "none: trainings run on the processor; for Tiny that takes a night")


def _discovery(patient: Patient) -> Finding:
    from daemon.sync.discovery import CANNOT_ANNOUNCE

    server = patient.config.server
    if not (server.enabled and server.discovery):
        return Finding("mdns", "ok", "switched off in [server]")
    fix = "devices then need `idiolect pull --url`; or allow UDP port 5353 and multicast in the firewall"
    if patient.status is not None:  # the daemon's own announcement is the better probe
        if any(warning.startswith(CANNOT_ANNOUNCE) for warning in patient.status["warnings"]):
            return Finding("mdns", "warn", CANNOT_ANNOUNCE, fix)
        return Finding("mdns", "ok", "the daemon announces itself")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(("", MDNS_PORT))
            group = socket.inet_aton(MDNS_GROUP) + socket.inet_aton("0.0.0.0")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        except OSError as error:
            return Finding("mdns", "warn", f"multicast does not work here: {error.strerror}", fix)
    return Finding("mdns", "ok", f"multicast group {MDNS_GROUP} can be joined")


def _port(patient: Patient) -> Finding:
    server = patient.config.server
    if not server.enabled:
        return Finding("port", "ok", "nothing is served ([server] enabled)")
    if patient.status is not None:
        return Finding("port", "ok", f"served: {', '.join(patient.status['server']['urls']) or 'nothing'}")
    family = socket.AF_INET6 if ":" in server.bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.bind, server.port))
        except OSError as error:
            fix = "choose another [server] port, or 0 for any; another bind where the address is not this machine's"
            return Finding("port", "bad", f"{server.bind} port {server.port} cannot be opened: {error.strerror}", fix)
    return Finding("port", "ok", f"{server.bind} port {server.port} is free")


def _clock(patient: Patient) -> Finding:
    fix = (
        "set the clock (timedatectl set-ntp true); releases carry its time, and devices refuse what is from the future"
    )
    now = time.time()
    if now < EARLIEST:
        return Finding("clock", "bad", f"it says {_date(now)}", fix)
    with contextlib.suppress(OSError):
        newest = max(path.stat().st_mtime for path in (patient.paths.library_db, patient.paths.store / "current"))
        if newest > now + FUTURE_S:
            return Finding(
                "clock", "bad", f"it says {_date(now)}, but idiolect's own files are of {_date(newest)}", fix
            )
    return Finding("clock", "ok", _date(now))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


PROBES: Mapping[str, Probe] = {
    "daemon": _daemon,
    "folder": _folders,
    "permissions": _permissions,
    "decoder": _decoder,
    "disk": _disk,
    "models": _models,
    "training": _training,
    "runtimes": _runtimes,
    "gpu": _gpu,
    "mdns": _discovery,
    "port": _port,
    "clock": _clock,
}
