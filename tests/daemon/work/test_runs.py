"""A run's way through the library, with a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.intake.reading import ReadClip, Reading
from daemon.intake.scan import Stamp
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.work import runs
from daemon.work.spec import RESULT_FILE, load_spec
from idiolect.errors import JobError
from tests.daemon.homes import changed


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    training = {"epochs": 2.0, "seed": 7, "threads": 1, "language": "de", "lora": ("tiny",)}
    config = changed(training=training)
    with Rooms.opened(Paths.at(tmp_path), config) as opened:
        yield opened


def hear(rooms: Rooms, *texts: str) -> None:
    """Put one recording of ten seconds into the library for each text."""
    for text in texts:
        digest = text.encode().hex().ljust(64, "0")[:64]
        clip = ReadClip(pcm_sha256=digest, start_s=0.0, end_s=None, duration_s=10.0, text=text)
        reading = Reading(state="ready", duration_s=10.0, clips=(clip,))
        rooms.library.record(str(rooms.paths.recordings / f"{text}.wav"), Stamp(1, 1, ""), reading)


def test_a_run_begins_in_library_and_folder(rooms: Rooms) -> None:
    hear(rooms, "one", "two")
    run_id = runs.begin(rooms, "nano")
    spec = load_spec(rooms.run_dir(run_id))
    assert {clip.text for clip in spec.clips} == {"one", "two"}
    assert (spec.run_id, spec.tier, spec.base, spec.language, spec.threads) == (run_id, "nano", "nano", "de", 1)
    assert spec.training == {"epochs": 2.0, "seed": 7}
    assert [profile["name"] for profile in spec.profiles] == ["android-futo"]
    assert {clip.language for clip in spec.clips} == {"de"}
    assert spec.published is None
    assert rooms.library.run(run_id).state == "running"
    assert (rooms.run_dir(run_id) / "run.json").stat().st_mode & 0o777 == 0o600


def test_only_the_tiers_own_profiles_are_built(rooms: Rooms) -> None:
    hear(rooms, "one")
    spec = load_spec(rooms.run_dir(runs.begin(rooms, "tiny")))
    assert spec.profiles == ()
    assert spec.training["lora_rank"] == 32


def test_a_dead_daemons_runs_are_found(rooms: Rooms) -> None:
    hear(rooms, "one")
    running, interrupted, kept = (runs.begin(rooms, "nano") for _ in range(3))
    rooms.library.update_run(interrupted, state="interrupted", reason="asked to stop")
    rooms.library.update_run(kept, state="kept")
    unborn = rooms.library.create_run("nano", "nano", ())
    held = runs.recover(rooms)
    assert {folder.name for folder in held} == {running, interrupted, unborn}
    states = {run.id: run.state for run in rooms.library.runs()}
    assert states == {running: "interrupted", interrupted: "interrupted", kept: "kept", unborn: "failed"}
    assert runs.look(rooms).tiers[0].interrupted_run == interrupted


def test_a_disk_that_is_full_again_and_again_is_no_crash(rooms: Rooms) -> None:
    hear(rooms, "one")
    run_id = runs.begin(rooms, "nano")
    for _ in range(runs.MAX_CRASHES + 1):
        rooms.library.update_run(run_id, state="running")
        runs.recover(rooms, crashed=False)
    run = rooms.library.run(run_id)
    assert (run.state, run.crashes, run.reason) == ("interrupted", 0, "the disk could not be written")


def test_a_look_measures_what_is_new(rooms: Rooms) -> None:
    hear(rooms, "one", "two")
    state = runs.look(rooms).tiers[0]
    assert (state.tier, state.cached, state.new_clips, state.new_s, state.trained_s) == ("nano", True, 2, 20.0, 0.0)
    rooms.library.update_run(runs.begin(rooms, "nano"), state="kept")
    hear(rooms, "three")
    snapshot = runs.look(rooms, frozenset({"nano", "tiny"}), busy=True)
    assert (snapshot.ready_clips, snapshot.busy) == (3, True)
    assert snapshot.last_arrival is not None
    assert [state.tier for state in snapshot.tiers] == ["nano", "tiny"]
    assert (snapshot.tiers[0].new_clips, snapshot.tiers[0].forced) == (1, True)


def test_failures_are_counted_and_new_speech_since_the_last(rooms: Rooms) -> None:
    hear(rooms, "one")
    rooms.library.update_run(runs.begin(rooms, "nano"), state="kept")
    assert runs.look(rooms).tiers[0].failure is None
    for reason in ("first", "second"):
        rooms.library.update_run(runs.begin(rooms, "nano"), state="failed", reason=reason)
    failure = runs.look(rooms).tiers[0].failure
    assert failure is not None
    assert (failure.count, failure.reason, failure.new_clips) == (2, "second", 0)
    hear(rooms, "two", "three")
    again = runs.look(rooms).tiers[0].failure
    assert again is not None
    assert again.new_clips == 2
    (rooms.run_dir("run-0003") / "run.json").write_text("{")
    damaged = runs.look(rooms).tiers[0].failure
    assert damaged is not None
    assert damaged.new_clips == 3


def test_a_damaged_result_is_an_error_with_its_place(rooms: Rooms) -> None:
    run_id = runs.begin(rooms, "nano")
    assert runs.result_of(rooms, run_id) is None
    (rooms.run_dir(run_id) / RESULT_FILE).write_text('{"run_id": "run-0001"}')
    with pytest.raises(JobError, match=r"result.json of run-0001 is damaged: tier: Field required"):
        runs.result_of(rooms, run_id)
