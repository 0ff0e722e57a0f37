"""Service files by exact content; systemd's own verifier where it is here; the commands through stand-ins on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.paths import Paths
from daemon.service import MANAGERS, Installer, Service, launchd_daemon, systemd_unit, windows_task
from idiolect.errors import JobError, NotRunning, UsageError

PLAIN = Service("idiolect", ("/opt/me/bin/idiolect", "run"))
ODD = Service(
    "idiolect-x", ("/opt/m e/bin/idiolect", "--home", "/home/100% $me & <you>", "run"), {"HF_HOME": "/data/$h f"}
)

UNIT = """[Unit]
Description=idiolect: teaches Whisper your own voice
After=network.target

[Service]
Type=notify
ExecStart=/opt/me/bin/idiolect run
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=30
WatchdogSec=300
TimeoutStopSec=10
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
LAUNCHD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>org.idiolect-x</string>
	<key>UserName</key>
	<string>me</string>
	<key>ProgramArguments</key>
	<array>
		<string>/opt/m e/bin/idiolect</string>
		<string>--home</string>
		<string>/home/100% $me &amp; &lt;you&gt;</string>
		<string>run</string>
	</array>
	<key>EnvironmentVariables</key>
	<dict>
		<key>HF_HOME</key>
		<string>/data/$h f</string>
	</dict>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>30</integer>
	<key>ExitTimeOut</key>
	<integer>10</integer>
	<key>ProcessType</key>
	<string>Background</string>
	<key>LowPriorityIO</key>
	<true/>
	<key>Umask</key>
	<integer>63</integer>
	<key>StandardOutPath</key>
	<string>/dev/null</string>
	<key>StandardErrorPath</key>
	<string>/dev/null</string>
</dict>
</plist>
"""
TASK = """<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>idiolect: teaches Whisper your own voice</Description>
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
      <Command>/opt/m e/bin/idiolect</Command>
      <Arguments>--home "/home/100% $me &amp; &lt;you&gt;" run</Arguments>
    </Exec>
  </Actions>
</Task>
"""


def test_the_systemd_unit() -> None:
    assert systemd_unit(PLAIN) == UNIT
    odd = systemd_unit(ODD)
    assert 'ExecStart="/opt/m e/bin/idiolect" --home "/home/100%% $$me & <you>" run\n' in odd
    assert 'Environment="HF_HOME=/data/$h f"\n' in odd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("home", [None, "/home/100% $me & <you>"])
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, home: str | None) -> None:
    service = Service.of(home, {"HF_HOME": "/data/$h f"})
    unit = tmp_path / f"{service.name}.service"
    unit.write_text(systemd_unit(service))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", unit], capture_output=True, text=True, env=environment
    )
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not said
    assert done.returncode == 0, done.stderr


def test_the_launchd_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "me")
    assert launchd_daemon(ODD).decode() == LAUNCHD


def test_the_windows_task() -> None:
    assert windows_task(ODD).startswith(b"\xff\xfe")
    assert windows_task(ODD).decode("utf-16") == TASK


def test_two_homes_are_two_services() -> None:
    first, second = Service.of("/a/home", {}), Service.of("/b/home", {})
    assert first.name != second.name
    assert first.name.startswith("idiolect-home-")
    assert first.command[-3:] == ("--home", "/a/home", "run")
    assert Service.of(None, {"HF_HOME": "/models", "SECRET": "x"}).environment == {"HF_HOME": "/models"}
    assert Path(Service.of(None, {}).command[0]).exists()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes how it is called, and fails where a file `fail` lies beside it."""
    folder = tmp_path / "tools"
    folder.mkdir()
    tool = folder / "systemctl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ ! -e {folder}/fail ] || {{ echo no bus; exit 1; }}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return folder


@pytest.fixture
def installer(tools: Path, tmp_path: Path) -> Installer:
    return Installer(PLAIN, Paths.at(tmp_path / "home"), "linux")


def test_install_and_uninstall(installer: Installer, tools: Path, tmp_path: Path) -> None:
    assert installer.status()[0] is False
    with pytest.raises(NotRunning, match="no service is installed"):
        list(installer.uninstall())
    lines = list(installer.install())
    assert installer.file == tmp_path / "me/.config/systemd/user/idiolect.service"
    assert installer.file.read_text() == UNIT
    assert any("enable-linger" in line for line in lines)
    assert installer.status()[0] is True
    Paths.at(tmp_path / "home").make()
    said = "\n".join(installer.uninstall())
    assert not installer.file.exists()
    assert str(tmp_path / "home" / "state") in said
    assert "recordings" not in said  # none was made
    assert (tools / "calls").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now idiolect.service",
        "--user status --no-pager idiolect.service",
        "--user disable --now idiolect.service",
        "--user daemon-reload",
    ]


def test_without_a_session_the_file_stays_and_the_command_is_told(installer: Installer, tools: Path) -> None:
    (tools / "fail").touch()
    with pytest.raises(JobError, match="no bus") as error:
        list(installer.install())
    assert "systemctl --user daemon-reload" in error.value.hint
    assert installer.file.exists()
    said = list(installer.uninstall())
    assert said[0].startswith("note: ")
    assert not installer.file.exists()


@pytest.mark.parametrize("system", MANAGERS)
def test_every_system_has_commands_that_can_be_filled(system: str, tmp_path: Path) -> None:
    made = Installer(PLAIN, Paths.at(tmp_path), system)
    manager = MANAGERS[system]
    for command in (*manager.install, *manager.uninstall, manager.status):
        assert "{" not in made._filled(command)


def test_an_unknown_system_is_told() -> None:
    with pytest.raises(UsageError, match="plan9"):
        Installer(PLAIN, Paths.at(Path("/nowhere")), "plan9")
    assert sys.platform in MANAGERS
