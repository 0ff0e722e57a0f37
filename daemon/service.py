"""The daemon as a service of this user: a systemd unit, a launchd daemon or a Windows task.

Formats: systemd.unit(5), systemd.service(5), systemd.exec(5); launchd.plist(5); Task Scheduler schema 1.2.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from daemon.paths import HOME_VARIABLE, Paths
from idiolect.errors import JobError, NotRunning, UsageError
from idiolect.files import write_bytes

WATCHDOG_S = 300
STOP_S = 10
CARRIED = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
"""Variables that decide where models are: a service does not see those of a shell."""
TITLE = "idiolect: teaches Whisper your own voice"
COMMAND_WAIT_S = 30


@dataclass(frozen=True)
class Service:
    """What is to be started: `name` is unique per home."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, home: str | None, environment: Mapping[str, str]) -> Service:
        """`idiolect run` of this installation, for the home at `home` or the system's usual folders."""
        program = Path(sys.executable).with_name("idiolect.exe" if os.name == "nt" else "idiolect")
        begin = (str(program),) if program.exists() else (sys.executable, "-P", "-m", "daemon.cli")
        carried = {name: environment[name] for name in CARRIED if environment.get(name)}
        if not home:
            return cls("idiolect", (*begin, "run"), carried)
        word = re.sub(r"[^A-Za-z0-9]+", "-", Path(home).name).strip("-")[:20] or "home"
        name = f"idiolect-{word}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:6]}"
        return cls(name, (*begin, "--home", home, "run"), carried)


def systemd_unit(service: Service) -> str:
    """A user unit. Only hardening that a user's own service manager may apply; memory that is written and run stays
    allowed, because PyTorch compiles kernels."""
    environment = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in service.environment.items())
    return f"""[Unit]
Description={TITLE}
After=network.target

[Service]
Type=notify
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in service.command)}
ExecReload=/bin/kill -HUP $MAINPID
{environment}Restart=on-failure
RestartSec=30
WatchdogSec={WATCHDOG_S}
TimeoutStopSec={STOP_S}
KillMode=mixed
Nice=5
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def launchd_daemon(service: Service) -> bytes:
    """A property list for /Library/LaunchDaemons that runs as this user: macOS 15 keeps agents, but not daemons, from
    the local network without asking anybody (Apple TN3179)."""
    return plistlib.dumps(
        {
            "Label": f"org.{service.name}",
            "UserName": getpass.getuser(),
            "ProgramArguments": list(service.command),
            "EnvironmentVariables": dict(service.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 30,
            "ExitTimeOut": STOP_S,
            "ProcessType": "Background",
            "LowPriorityIO": True,
            "Umask": 0o077,
            "StandardOutPath": "/dev/null",
            "StandardErrorPath": "/dev/null",
        },
        sort_keys=False,
    )


def windows_task(service: Service) -> bytes:
    """A task that starts at logon, as UTF-16 with a byte order mark, which schtasks wants. The daemon minds the
    battery itself, so the task does not."""
    program, *arguments = service.command
    return f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>{TITLE}</Description>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>
    </LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>7</Priority>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>10</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{escape(program)}</Command>
      <Arguments>{escape(subprocess.list2cmdline(arguments))}</Arguments>
    </Exec>
  </Actions>
</Task>
""".encode("utf-16")


@dataclass(frozen=True)
class Manager:
    """How one system keeps services: the file, what stands in it, and the commands, with {name} and {file}."""

    file: str
    content: Callable[[Service], str | bytes]
    install: tuple[str, ...]
    uninstall: tuple[str, ...]
    status: str
    hint: str = ""
    removed: tuple[str, ...] = ()
    """Run once the file is gone."""


MANAGERS: dict[str, Manager] = {
    "linux": Manager(
        "~/.config/systemd/user/{name}.service",
        systemd_unit,
        ("systemctl --user daemon-reload", "systemctl --user enable --now {name}.service"),
        ("systemctl --user disable --now {name}.service",),
        "systemctl --user status --no-pager {name}.service",
        "It runs while you are logged in; to have it run always: loginctl enable-linger",
        ("systemctl --user daemon-reload",),
    ),
    "darwin": Manager(
        "~/Library/Application Support/idiolect/org.{name}.plist",
        launchd_daemon,
        (
            "sudo install -o root -g wheel -m 644 {file} /Library/LaunchDaemons/org.{name}.plist",
            "sudo launchctl bootstrap system /Library/LaunchDaemons/org.{name}.plist",
        ),
        ("sudo launchctl bootout system/org.{name}", "sudo rm /Library/LaunchDaemons/org.{name}.plist"),
        "launchctl print system/org.{name}",
    ),
    "win32": Manager(
        "~/AppData/Local/idiolect/{name}.xml",
        windows_task,
        ("schtasks /Create /F /TN {name} /XML {file}", "schtasks /Run /TN {name}"),
        ("schtasks /End /TN {name}", "schtasks /Delete /F /TN {name}"),
        "schtasks /Query /V /FO LIST /TN {name}",
    ),
}


class Installer:
    """Puts `service` in the charge of this system's manager. Raises UsageError where the system has none we know."""

    def __init__(self, service: Service, paths: Paths, system: str = sys.platform) -> None:
        if system not in MANAGERS:
            raise UsageError(f"no service manager is known for {system}", "start `idiolect run` your own way")
        self._service, self._paths, self._manager = service, paths, MANAGERS[system]
        self.file = Path(self._manager.file.format(name=service.name)).expanduser()

    def install(self) -> Iterator[str]:
        """Write the file and start the service; lines for the user. Raises JobError where a command fails."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = self._manager.content(self._service)
        write_bytes(self.file, content.encode() if isinstance(content, str) else content)
        yield f"written: {self.file}"
        for command in self._manager.install:
            self._run(command, f"the file stays; in a desktop or login session run: {self._filled(command)}")
        yield f"running as {self._service.name}; see: idiolect service status"
        if self._manager.hint:
            yield self._manager.hint

    def uninstall(self) -> Iterator[str]:
        """Stop the service and remove its file; lines that name what stays. Raises NotRunning where none is there."""
        if not self.file.exists():
            raise NotRunning(f"no service is installed: {self.file} does not exist", "idiolect service install")
        yield from self._noted(*self._manager.uninstall)
        self.file.unlink()
        yield from self._noted(*self._manager.removed)
        yield f"removed: {self.file}"
        yield "These stay; remove them by hand where you want them gone:"
        for name in ("recordings", "models", "config_file", "state", "cache"):
            path: Path = getattr(self._paths, name)
            if path.exists():
                yield f"  {name.removesuffix('_file'):<11} {path}"

    def status(self) -> tuple[bool, str]:
        """(whether it is installed, what the service manager says of it)."""
        if not self.file.exists():
            return False, f"not installed ({self.file} does not exist); idiolect service install"
        try:
            return True, self._run(self._manager.status, "").rstrip()
        except JobError as error:  # systemctl's status for a stopped unit, too
            return True, f"installed: {self.file}\n{error.message}"

    def _noted(self, *commands: str) -> Iterator[str]:
        """Run commands that may fail, and say so."""
        for command in commands:
            try:
                self._run(command, "")
            except JobError as error:
                yield f"note: {error.message}"

    def _run(self, command: str, hint: str) -> str:
        argv = [self._fill(part) for part in command.split()]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_WAIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JobError(f"`{' '.join(argv)}` did not work: {error}", hint) from error
        if done.returncode:
            said = (done.stdout + done.stderr).strip() or f"status {done.returncode}"
            raise JobError(f"`{' '.join(argv)}` did not work: {said}", hint)
        return done.stdout

    def _filled(self, command: str) -> str:
        return shlex.join(self._fill(part) for part in command.split())

    def _fill(self, part: str) -> str:
        return part.format(name=self._service.name, file=self.file)


def installer(paths: Paths) -> Installer:
    """For this installation, and the home that --home or IDIOLECT_HOME names."""
    return Installer(Service.of(os.environ.get(HOME_VARIABLE), os.environ), paths)


def _quoted(text: str) -> str:
    """One word of a unit file: systemd expands % and reads backslashes."""
    doubled = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{doubled}"' if re.search(r"[\s\"';\\]", text) else doubled
