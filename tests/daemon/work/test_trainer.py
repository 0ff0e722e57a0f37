"""Runs taken through small real jobs; with a whole daemon around them in test_run.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work import runs
from daemon.work.trainer import Trainer
from tests.daemon.homes import CONFIG, job_log, pipeline, until
from tests.daemon.work.test_runs import hear


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    with Rooms.opened(Paths.at(tmp_path), CONFIG) as opened:
        hear(opened, "one", "two")
        yield opened


async def test_a_run_ends_in_library_and_store(rooms: Rooms) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    run = await Trainer(rooms, pipeline("good"), lambda *event: heard.append(event)).train("nano", None)
    assert run is not None
    assert (run.id, run.state, run.release_id) == ("run-0001", "published", "r-0001")
    assert [kind for kind, _ in heard] == ["job", "job", "job", "job", "run"]
    assert heard[1][1]["message"] == {"kind": "stage", "name": "train"}


@pytest.mark.slow
async def test_a_stopped_run_goes_on(rooms: Rooms) -> None:
    trainer = Trainer(rooms, pipeline("slow"), lambda kind, data: None)
    training = asyncio.create_task(trainer.train("nano", None))
    await until(lambda: trainer.job and trainer.job.stage == "train")
    trainer.stop()
    stopped = await training
    assert stopped is not None
    assert stopped.state == "interrupted"
    assert await trainer.train("nano", stopped.id) is None  # it begins nothing any more
    again = await Trainer(rooms, pipeline("slow"), lambda kind, data: None).train("nano", stopped.id)
    assert again is not None
    assert (again.id, again.state) == (stopped.id, "published")


@pytest.mark.slow
async def test_a_run_that_failed_for_want_of_disk_space_goes_on(rooms: Rooms) -> None:
    lacking = ["disk space: 0.1 of 2 GB are free", ""]
    trainer = Trainer(rooms, pipeline("fail"), lambda kind, data: None, lambda: lacking.pop(0))
    run = await trainer.train("nano", None)
    assert run is not None
    assert (run.state, run.finished) == ("interrupted", None)
    assert run.reason == "paused, waiting for disk space: 0.1 of 2 GB are free; the disk is full — make room"
    again = await trainer.train("nano", run.id)  # and now for another reason
    assert again is not None
    assert (again.id, again.state) == (run.id, "failed")


async def test_a_finished_job_is_not_repeated_for_its_publication(rooms: Rooms) -> None:
    trainer = Trainer(rooms, pipeline("good"), lambda kind, data: None)
    await trainer.train("nano", None)
    rooms.library.update_run("run-0001", state="interrupted")
    run = await trainer.train("nano", "run-0001")
    assert run is not None
    assert run.state == "published"
    assert len(job_log(rooms.paths)) == 2


@pytest.mark.slow
async def test_no_job_begins_while_an_old_one_holds_its_folder(rooms: Rooms) -> None:
    old = runs.begin(rooms, "tiny")
    trainer = Trainer(rooms, pipeline("good"), lambda kind, data: None)
    with filelock.FileLock(rooms.run_dir(old) / "lock"):
        training = asyncio.create_task(trainer.train("nano", None))
        await until(lambda: trainer.waiting)
        await asyncio.sleep(0.1)
        assert job_log(rooms.paths) == []
    run = await training
    assert run is not None
    assert run.state == "published"
    assert not trainer.waiting


async def test_it_can_be_stopped_while_it_waits(rooms: Rooms) -> None:
    old = runs.begin(rooms, "nano")
    trainer = Trainer(rooms, pipeline("good"), lambda kind, data: None)
    with filelock.FileLock(rooms.run_dir(old) / "lock"):
        training = asyncio.create_task(trainer.train("nano", old))
        await until(lambda: trainer.waiting)
        trainer.stop()
        assert await training is None
    assert rooms.library.run(old).state == "interrupted"
