"""pair, devices, revoke and pull on the command line, against a daemon that lives."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.devices import READ
from idiolect.wire import Report
from tests.daemon.homes import CONFIG, changed, living, pipeline, record, states, until
from tests.daemon.test_cli import idiolect

pytestmark = pytest.mark.slow


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    paths = Paths.at(tmp_path / "home")
    config = changed(CONFIG, server={"plain_port": 0})
    async with living(Daemon(paths, config, pipeline=pipeline("good"))) as daemon:
        record(paths, 0, 1)
        await until(lambda: states(daemon) == ["published"])
        yield daemon


async def run(home: Path, *arguments: str | Path) -> CompletedProcess[str]:
    return await asyncio.to_thread(idiolect, *arguments, home=home)


async def test_from_the_code_to_the_model_and_out_again(daemon: Daemon, tmp_path: Path) -> None:
    home, phone = tmp_path / "home", tmp_path / "phone"
    refused = await run(phone, "pull", "--profile", "android-futo")
    assert refused.returncode == 6
    assert "not paired with any service" in refused.stderr
    text = (await run(home, "pair", "--show")).stdout.strip()
    assert text.startswith("idiolect://pair?v=1&id=")
    pulled = await run(phone, "pull", "--profile", "android-futo", "--pair", text, "--json")
    assert json.loads(pulled.stdout)["changed"], pulled.stderr
    again = await run(phone, "pull", "--profile", "android-futo", "--json")
    assert not json.loads(again.stdout)["changed"]
    listed = json.loads((await run(home, "devices", "--json")).stdout)
    assert len(listed) == 2
    assert listed[1]["last_seen_s"]
    assert "let in" in (await run(home, "devices")).stdout
    assert "Shut out" in (await run(home, "revoke", listed[1]["id"])).stdout
    gone = await run(phone, "pull", "--profile", "android-futo")
    assert gone.returncode == 6
    assert "no longer lets this device in" in gone.stderr
    assert "shut out" in (await run(home, "devices")).stdout
    own = await run(home, "pull", "--profile", "android-futo", "--json")
    assert json.loads(own.stdout)["changed"], own.stderr


async def test_a_hook_runs_after_a_model_has_come_and_the_service_hears_of_it(daemon: Daemon, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    code = "import os, sys; open(*sys.argv[1:], 'a').write(os.environ['IDIOLECT_RELEASE'] + chr(10))"
    pull = ("pull", "--profile", "android-futo", "--json")
    good = (*pull, "--hook", sys.executable, "--", "-c", code, out)
    assert (await run(home, *good)).returncode == 0
    assert (await run(home, *good)).returncode == 0
    assert out.read_text() == "r-0001\n"
    bad = (*pull, "--into", tmp_path / "other", "--hook", sys.executable, "--", "-c", "raise SystemExit(1)")
    failed = await run(home, *bad)
    assert failed.returncode == 7
    assert json.loads(failed.stdout)["changed"]
    assert "ended with 1" in failed.stderr
    (device,) = json.loads((await run(home, "devices", "--json")).stdout)
    assert [(held["release"], held["loaded"]) for held in device["holds"]] == [("r-0001", False)]
    assert "r-0001 (failed)" in (await run(home, "devices")).stdout
    assert (await run(home, *pull, "--hook", "no-such-program")).returncode == 2
    assert (await run(home, *pull, "stray")).returncode == 2
    assert "7 the model is there" in " ".join((await run(home, "pull", "--help")).stdout.split())


async def test_watching(daemon: Daemon, tmp_path: Path) -> None:
    home = tmp_path / "home"
    arguments = ("--home", home, "pull", "--profile", "android-futo", "--watch", "--json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.cli", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert json.loads(await process.stdout.readline())["release"] == "r-0001"
        record(Paths.at(home), 2)
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
        assert (line["release"], line["changed"]) == ("r-0002", True)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 120) == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_token_for_the_plain_port_is_shown_once_with_its_warning(daemon: Daemon, tmp_path: Path) -> None:
    shown = (await run(tmp_path / "home", "pair", "--plain", "whisperkit")).stdout
    assert "http://127.0.0.1:" in shown
    assert "idl_" in shown
    assert "Without encryption" in shown
    assert "without encryption" in (await run(tmp_path / "home", "devices")).stdout


def test_without_a_daemon(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "no device has been let in" in idiolect("devices", home=home).stdout
    assert idiolect("pair", home=home).returncode == 3
    refused = idiolect("revoke", "phone", home=home)
    assert refused.returncode == 2
    assert "no device is called 'phone'" in refused.stderr
    damaged = idiolect("pull", "--profile", "android-futo", "--pair", "idiolect://nonsense", home=home)
    assert damaged.returncode == 2
    assert "not the text of a pairing code" in damaged.stderr


async def test_nobody_becomes_the_canary_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest chooses its label itself."""
    judged: list[Report] = []
    monkeypatch.setattr("daemon.sync.publishing.judge", lambda store, report, held: judged.append(report))
    paths, config = Paths.at(tmp_path), changed(CONFIG, publish={"canary": "phone"})
    report = Report(release="r-0001", profile="android-futo")
    async with living(Daemon(paths, config)) as daemon:
        phone, _ = daemon._rooms.devices.add("phone", "android", frozenset({READ}))
        await daemon._judge(phone, report)
        assert judged == [report]
        guest, _ = daemon._rooms.devices.add("phone", "android", frozenset({READ}))
        for device in (guest, phone):
            await daemon._judge(device, report)
        assert judged == [report]


async def test_a_canary_tries_each_release_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get nothing until its hook has ended well."""
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    home = tmp_path / "home"
    paths = Paths.at(home)
    config = changed(CONFIG, publish={"canary": "this computer"})
    pull = ("pull", "--profile", "android-futo", "--json")
    async with living(Daemon(paths, config, pipeline=pipeline("good"))) as daemon:
        record(paths, 0, 1)
        await until(lambda: states(daemon) == ["published"])
        assert "has no stable model" in (await run(home, *pull)).stderr
        assert any("waits for the canary" in warning for warning in daemon.status()["warnings"])
        tried = await run(home, *pull, "--channel", "beta", "--hook", sys.executable, "--", "-c", "")
        assert tried.returncode == 0, tried.stderr
        assert json.loads((await run(home, *pull)).stdout)["release"] == "r-0001"
