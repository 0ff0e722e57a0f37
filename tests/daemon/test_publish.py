"""The end of a run: real store, real gate, files as a job leaves them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import publish
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work import runs
from daemon.work.spec import CHECKPOINT, JobResult, load_spec
from idiolect.errors import StoreError
from tests.daemon import small_job
from tests.daemon.homes import CONFIG
from tests.daemon.work.test_runs import hear


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    with Rooms.opened(Paths.at(tmp_path), CONFIG) as opened:
        hear(opened, "one", "two", "three")
        yield opened


def finished(rooms: Rooms, tuned_wer: float = small_job.TUNED_WER) -> tuple[str, JobResult]:
    """A run whose job has just ended."""
    run_id = runs.begin(rooms, "nano")
    run_dir = rooms.run_dir(run_id)
    return run_id, small_job.result(run_dir, load_spec(run_dir), tuned_wer)


async def test_a_better_model_becomes_the_release(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    await publish.finish(rooms, run_id, result)
    run = rooms.library.run(run_id)
    assert (run.state, run.release_id) == ("published", "r-0001")
    assert run.summary is not None
    assert run.summary["wer_tuned"] == small_job.TUNED_WER
    assert rooms.store.manifest is not None
    release, artifact = rooms.store.manifest.current("android-futo") or pytest.fail("nothing current")
    assert release.eval.wer_stock == small_job.STOCK_WER
    assert release.eval.wer_ci95 == pytest.approx((0.05, 0.15))
    assert artifact.checked.status == "fully"
    assert artifact.hints == {"audio_context": "dynamic"}
    blob = rooms.store.blob(artifact.files[0].sha256)
    assert blob is not None
    assert blob.read_bytes().startswith(b"lmgg")


async def test_a_worse_model_leaves_the_store_alone(rooms: Rooms) -> None:
    run_id, result = finished(rooms, tuned_wer=0.6)
    await publish.finish(rooms, run_id, result)
    assert rooms.library.run(run_id).state == "kept"
    assert rooms.library.run(run_id).reason
    assert rooms.store.manifest is None


async def test_a_part_that_was_not_checked_is_said(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    partly = result.artifacts[0].model_copy(update={"not_checked": ("speed on a phone",)})
    await publish.finish(rooms, run_id, result.model_copy(update={"artifacts": (partly,)}))
    assert rooms.store.manifest is not None
    checked = rooms.store.manifest.releases[0].artifacts[0].checked
    assert (checked.status, checked.not_checked) == ("partly", ["speed on a phone"])


async def test_what_the_job_heard_of_a_recording_stands_in_status(rooms: Rooms) -> None:
    clips = rooms.library.ready_clips()
    told = "sounds like 'de' (93% sure), and the language is 'en'"
    for _ in range(2):  # said once, however often it is heard
        run_id, result = finished(rooms, tuned_wer=0.6)
        await publish.finish(rooms, run_id, result.model_copy(update={"remarks": {clips[1].pcm_sha256: told}}))
    assert [(each.path, each.reason) for each in rooms.library.remarked()] == [(clips[1].path, told)]


async def test_the_same_files_are_published_once(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    for _ in range(2):
        await publish.finish(rooms, run_id, result)
    assert rooms.store.version == 1
    assert rooms.library.run(run_id).release_id == "r-0001"


async def test_a_file_that_changed_after_its_check_is_refused(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    artifact = result.artifacts[0]
    (rooms.run_dir(run_id) / artifact.folder / artifact.files[0].path).write_bytes(b"lmgg, but not what was checked")
    with pytest.raises(StoreError, match="not what its export says"):
        await publish.finish(rooms, run_id, result)
    assert rooms.store.manifest is None


async def test_the_next_run_knows_what_it_has_to_beat(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    await publish.finish(rooms, run_id, result)
    assert load_spec(rooms.run_dir(runs.begin(rooms, "nano"))).published is None  # its checkpoint is not there
    (rooms.run_dir(run_id) / CHECKPOINT).mkdir()
    published = load_spec(rooms.run_dir(runs.begin(rooms, "nano"))).published
    assert published is not None
    assert published.release_id == "r-0001"
    assert published.checkpoint == rooms.run_dir(run_id) / CHECKPOINT
    assert published.trained_on == rooms.library.trained_on(run_id)


async def test_the_event_loop_goes_on_while_files_are_copied(rooms: Rooms) -> None:
    run_id, result = finished(rooms)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await publish.finish(rooms, run_id, result)
    counting.cancel()
    assert turns > 1


async def test_folders_of_runs_that_nothing_needs_are_removed(rooms: Rooms) -> None:
    names = []
    for wer in (small_job.TUNED_WER, 0.6, 0.6):
        run_id, result = finished(rooms, wer)
        (rooms.run_dir(run_id) / CHECKPOINT).mkdir()
        await publish.finish(rooms, run_id, result)
        names.append(run_id)
    names.append(runs.begin(rooms, "tiny"))
    await publish.tidy(rooms)
    left = [(rooms.run_dir(name) / CHECKPOINT).exists() for name in names]
    assert left == [True, False, True, False]  # current release, nothing, newest, never had one
    assert all((rooms.run_dir(name) / "run.json").exists() for name in names)
