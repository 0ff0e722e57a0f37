"""pair, devices, revoke and pull on the command line, against a daemon that lives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from daemon.paths import Paths
from daemon.run import Daemon
from tests.daemon.homes import CONFIG, changed, living, pipeline, record, states, until
from tests.daemon.test_cli import idiolect


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
