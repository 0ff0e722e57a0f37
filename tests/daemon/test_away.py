"""A disk that is away when a training is due."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.intake.intake import Intake
from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.control import ask
from tests.daemon.homes import changed, living, pipeline, record, states, until

pytestmark = pytest.mark.slow


async def test_a_training_waits_for_recordings_out_of_reach_and_learns_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    monkeypatch.setattr("daemon.intake.intake.POLL_S", 0.1)
    paths, stick = Paths.at(tmp_path / "home"), tmp_path / "stick"
    record(paths, 0, 1)
    stick.mkdir()
    for file in sorted(paths.recordings.iterdir())[:2]:  # a recording and its text
        file.rename(stick / file.name)
    config = changed(recordings={"folders": (paths.recordings, stick)})
    busy = changed(config, conditions={"min_free_memory_gb": 10_000.0})
    async with living(Daemon(paths, busy, pipeline=pipeline("good"))) as one:
        await until(lambda: one.status()["recordings"]["ready"] == 2)

    away = stick.rename(tmp_path / "away")
    async with living(Daemon(paths, config, pipeline=pipeline("good"))) as one:
        await until(lambda: one.status()["next"]["waits_for"] == "folder")
        assert f"waiting for 1 recording in {stick}, or now: `idiolect train --now`" in one.status()["next"]["reason"]
        assert states(one) == []
        await asyncio.to_thread(ask, paths, "train")
        await until(lambda: states(one) == ["published"])
        away.rename(stick)
        await until(lambda: states(one) == ["published", "published"])
        assert not one.status()["warnings"]


async def test_trouble_with_the_folders_is_forgotten_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    monkeypatch.setattr("daemon.run.TROUBLE_PAUSE_S", 0.5)
    paths, rescan, times = Paths.at(tmp_path), Intake.rescan, list[int]()

    async def first_fails(intake: Intake) -> None:
        times.append(1)
        if len(times) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        await rescan(intake)

    monkeypatch.setattr(Intake, "rescan", first_fails)
    record(paths, 0)
    async with living(Daemon(paths, changed(), pipeline=pipeline("good"))) as one:
        await until(lambda: "recordings are not read" in " ".join(one.status()["warnings"]))
        await until(lambda: states(one) == ["published"])
        assert not one.status()["warnings"]
