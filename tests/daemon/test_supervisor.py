"""What systemd would hear, on real sockets; the daemon's own words are in test_run.py."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import supervisor


@pytest.fixture(params=["file", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A supervisor's socket."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract unix sockets are Linux's own")
    name = f"@idiolect-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(name.replace("@", "\0", 1))
        made.settimeout(120)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield made


def test_each_word_is_heard(heard: socket.socket) -> None:
    supervisor.ready()
    supervisor.reloading()
    supervisor.stopping()
    assert heard.recv(100) == b"READY=1"
    first, second = heard.recv(100).decode().split("\n")
    assert (first, second.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert second.partition("=")[2].isdecimal()
    assert heard.recv(100) == b"STOPPING=1"


def test_a_supervisor_that_does_not_read_stops_nobody(heard: socket.socket) -> None:
    for _ in range(5_000):
        supervisor.ready()


@pytest.mark.parametrize("address", ["", "nonsense", "/no/such/socket", "@nobody-listens-here"])
def test_where_nobody_listens_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    supervisor.ready()


@pytest.mark.parametrize(
    ("usec", "pid", "every_s"),
    [("300000000", "", 150.0), ("300000000", "own", 150.0), ("300000000", "1", None), ("", "", None), ("0", "", None)],
)
def test_signs_of_life_come_twice_as_often_as_they_must(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, every_s: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert supervisor.watchdog_s() == every_s


async def test_a_living_loop_says_so(heard: socket.socket) -> None:
    task = asyncio.create_task(supervisor.keep_alive(0.01))
    for _ in range(3):
        assert await asyncio.to_thread(heard.recv, 100) == b"WATCHDOG=1"
    task.cancel()
