"""releases, rollback, withdraw and rotate-keys on the command line, with and without a daemon."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.identity import Identity
from daemon.sync.releases import ReleaseStore
from tests.daemon.homes import CONFIG, living, pipeline
from tests.daemon.sync.publishing import candidate
from tests.daemon.test_cli import idiolect

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with three releases."""
    paths = Paths.at(tmp_path / "home")
    paths.make()
    store = ReleaseStore(paths.store, Identity(paths.keys).id)
    for seed in (1, 2, 3):
        store.publish(candidate(tmp_path / "made", seed))
    return tmp_path / "home"


def act(home: Path, *arguments: str) -> dict[str, Any]:
    done = idiolect(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stable(found: dict[str, Any]) -> str:
    return next(str(each["id"]) for each in found["releases"] if each["channels"])


def walk(home: Path) -> None:
    found = act(home, "releases")
    assert (found["version"], stable(found)) == (3, "r-0003")
    found = act(home, "rollback", "tiny")
    assert (found["version"], stable(found)) == (4, "r-0002")
    found = act(home, "withdraw", "r-0002")
    assert (found["version"], stable(found)) == (5, "r-0001")
    found = act(home, "rotate-keys", "--root")
    assert (found["version"], found["root_version"]) == (6, 2)
    listed = idiolect("releases", home=home).stdout
    assert "withdrawn" in listed
    assert "manifest 6" in listed
    refused = idiolect("withdraw", "r-0002", home=home)
    assert refused.returncode == 2
    assert "idiolect releases" in refused.stderr


def test_without_a_daemon(home: Path) -> None:
    walk(home)


async def test_by_the_daemon_and_the_devices_follow(home: Path) -> None:
    """One that waits for news is woken; one that has pulled follows the rollback and the new keys."""
    pull = ("pull", "--profile", "android-futo", "--json")
    async with living(Daemon(Paths.at(home), CONFIG, pipeline=pipeline("good"))):
        first = await asyncio.to_thread(idiolect, *pull, home=home)
        assert json.loads(first.stdout)["release"] == "r-0003", first.stderr
        await asyncio.to_thread(walk, home)
        second = await asyncio.to_thread(idiolect, *pull, home=home)
        assert json.loads(second.stdout)["release"] == "r-0001", second.stderr
        found = await asyncio.to_thread(act, home, "pin", "this computer", "r-0003")
        (pinned,) = found["releases"][0]["pinned"]
        assert pinned in (await asyncio.to_thread(idiolect, "releases", home=home)).stdout
        third = await asyncio.to_thread(idiolect, *pull, home=home)
        assert json.loads(third.stdout)["release"] == "r-0003", third.stderr
        assert (await asyncio.to_thread(act, home, "unpin", pinned))["version"] == 8


def test_another_process_holds_the_home(home: Path) -> None:
    with Paths.at(home).locked():
        refused = idiolect("rollback", "tiny", home=home)
    assert refused.returncode == 3
    assert "already uses" in refused.stderr
