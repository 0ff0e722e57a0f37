"""The doctor on homes that are well and on homes that are not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from daemon import doctor
from daemon.config import example
from daemon.doctor import Finding, Patient, examine, to_json
from daemon.paths import Paths
from tests.daemon.homes import CONFIG, changed, living
from tests.daemon.test_run import daemon


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.at(tmp_path)
    paths.make()
    paths.recordings.mkdir()
    paths.config_file.write_text(example(CONFIG))
    return paths


def found(paths: Paths, about: str) -> list[Finding]:
    return [finding for finding in examine(paths) if finding.about == about]


def test_every_probe_says_something_and_everything_bad_has_a_fix(paths: Paths) -> None:
    findings = list(examine(paths))
    assert {finding.about for finding in findings} == {"settings", *doctor.PROBES}
    assert all(finding.fix for finding in findings if finding.state != "ok" and finding.about != "gpu")
    states = {finding.about: finding.state for finding in findings}
    assert states["decoder"] == states["folder"] == states["models"] == states["permissions"] == states["clock"] == "ok"


def test_settings_that_cannot_be_read_end_it(paths: Paths) -> None:
    paths.config_file.write_text("[training]\nteirs = []\n")
    findings = list(examine(paths))
    assert [(finding.about, finding.state) for finding in findings] == [("settings", "bad")]
    assert "did you mean tiers" in findings[0].fix
    assert not to_json(findings)["ok"]


def test_a_folder_that_is_not_there(paths: Paths) -> None:
    paths.recordings.rmdir()
    (finding,) = found(paths, "folder")
    assert finding.state == "bad"
    assert str(paths.recordings) in finding.found


@pytest.mark.skipif(os.getuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written(paths: Paths) -> None:
    paths.recordings.chmod(0)
    paths.state.chmod(0o500)
    try:
        assert found(paths, "folder")[0].state == "bad"
        assert found(paths, "permissions")[0].state == "bad"
    finally:
        paths.recordings.chmod(0o700)
        paths.state.chmod(0o700)


@pytest.mark.slow
def test_a_state_folder_that_others_can_read(paths: Paths) -> None:
    paths.state.chmod(0o755)
    assert (found(paths, "permissions")[0].state, found(paths, "permissions")[0].fix) == (
        "warn",
        f"chmod 700 {paths.state}",
    )


@pytest.mark.slow
def test_models_that_are_not_here_and_a_disk_that_is_full(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(paths.cache / "none"))
    config = changed(training={"tiers": ("tiny",)}, conditions={"min_free_disk_gb": 100_000.0})
    paths.config_file.write_text(example(config))
    assert found(paths, "models")[0].fix == "idiolect models fetch tiny"
    assert found(paths, "disk")[0].state == "bad"


def test_a_missing_runtime_is_named_with_its_extra(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RUNTIMES", {"ggml": ("no_such_package", "whispercpp")})
    (finding,) = found(paths, "runtimes")
    assert (finding.state, finding.fix) == ("bad", 'pip install "idiolect[whispercpp]"')


def test_a_port_in_use(paths: Paths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        paths.config_file.write_text(example(changed(server={"port": taken.getsockname()[1]})))
        assert found(paths, "port")[0].state == "bad"


def test_a_clock_that_was_set_back(paths: Paths) -> None:
    paths.library_db.touch()
    (paths.store).mkdir()
    (paths.store / "current").write_text("1\n")
    os.utime(paths.library_db, (4e9, 4e9))
    (finding,) = found(paths, "clock")
    assert finding.state == "bad"
    assert "2096" in finding.found


async def test_a_running_daemon_is_asked(paths: Paths) -> None:
    import asyncio

    async with living(daemon(paths)) as one:
        findings = await asyncio.to_thread(lambda: {finding.about: finding for finding in examine(paths)})
        assert findings["daemon"].found.startswith("runs, pid")
        assert one.status()["server"]["urls"][0] in findings["port"].found


def test_what_a_daemon_warns_of_is_found(paths: Paths) -> None:
    warnings = ["cannot announce the service on the network (OSError: no route)"]
    config = changed(server={"discovery": True})
    patient = Patient(paths, config, {"pid": 1, "warnings": warnings})
    for about in ("daemon", "mdns"):
        finding = doctor.PROBES[about](patient)
        assert isinstance(finding, Finding)
        assert finding.state == "warn"
        assert finding.fix
    well = doctor.PROBES["mdns"](Patient(paths, config, {"pid": 1, "warnings": []}))
    assert well == Finding("mdns", "ok", "the daemon announces itself")


def test_a_probe_that_breaks_is_a_finding(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBES", {"decoder": lambda patient: 1 // 0})
    (finding,) = found(paths, "decoder")
    assert (finding.state, finding.found) == ("bad", "ZeroDivisionError: integer division or modulo by zero")
    assert str(paths.log_file) in finding.fix
