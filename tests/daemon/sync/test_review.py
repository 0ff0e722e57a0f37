"""Poisoned recordings: nothing is learned from before the user has seen it, and a device is undone whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.intake.intake import Intake
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.sync.devices import READ, RECORD, Device
from daemon.sync.review import review
from daemon.work import runs
from idiolect.errors import UsageError
from tests.daemon.homes import CONFIG, changed, record
from tests.daemon.sync.test_inbox import arrive

WRONG = 200


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    paths = Paths.at(tmp_path)
    paths.make()
    with Rooms.opened(paths, changed(CONFIG, recordings={"min_free_gb": 0.0})) as rooms:
        yield rooms


@pytest.fixture
def phone(rooms: Rooms) -> Device:
    return rooms.devices.add("phone", "android", frozenset({READ, RECORD}))[0]


async def learned(rooms: Rooms) -> list[str]:
    """The texts that a run would be given now."""
    intake = Intake(rooms.library, rooms.folders, 0.0, 3600.0)
    await intake.rescan()
    await intake.rescan()
    await intake.close()
    return sorted(clip.text for clip in rooms.library.ready_clips())


@pytest.mark.slow
async def test_two_hundred_wrong_recordings(rooms: Rooms, phone: Device) -> None:
    record(rooms.paths, 0, 1, 2)
    own = await learned(rooms)
    assert len(own) == 3
    for seed in range(WRONG):
        arrive(rooms.inbox, phone, seed, f"wrong {seed}", seconds=0.3)
    assert await learned(rooms) == own
    assert rooms.library.counts().waiting == 0

    assert len(review(rooms, {"action": "take", "all": True})["recordings"]) == WRONG
    assert len(await learned(rooms)) == 3 + WRONG
    run_id = runs.begin(rooms, "nano")
    rooms.library.update_run(run_id, state="published", release_id="r-0001")
    arrive(rooms.inbox, phone, WRONG, "one more")

    undone = review(rooms, {"action": "undo", "device": "phone"})
    assert undone["undone"] == WRONG + 1
    assert undone["runs"] == [{"id": run_id, "tier": "nano", "release": "r-0001"}]
    assert await learned(rooms) == own
    assert review(rooms, {"action": "list"})["recordings"] == []
    assert review(rooms, {"action": "undo", "device": phone.id})["undone"] == 0


@pytest.mark.slow
async def test_copies_elsewhere_are_told_of(rooms: Rooms, phone: Device) -> None:
    arrive(rooms.inbox, phone, 1)
    rooms.inbox.take(1)
    path = rooms.inbox.get(1).path
    assert path is not None
    copy = rooms.folders[0] / "kept" / "mine.flac"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    copy.with_suffix(".txt").write_text("mine")
    path.rename(rooms.folders[0] / "moved.flac")  # nor is what the user has moved
    await learned(rooms)
    assert review(rooms, {"action": "undo", "device": "phone"})["copies"] == [str(copy)]


def test_what_can_be_asked(rooms: Rooms, phone: Device) -> None:
    arrive(rooms.inbox, phone, 1)
    arrive(rooms.inbox, phone, 2, text="")
    arrive(rooms.inbox, phone, 3)
    assert [each["number"] for each in review(rooms, {})["recordings"]] == [1, 2, 3]
    assert [each["number"] for each in review(rooms, {"action": "take", "all": True})["recordings"]] == [1, 3]
    assert [each["number"] for each in review(rooms, {"action": "refuse", "all": True})["recordings"]] == [2]
    assert len(review(rooms, {"all": True})["recordings"]) == 3
    assert review(rooms, {"action": "trust", "device": "phone"})["trusted"]
    assert review(rooms, {})["trusted"] == [phone.id]
    review(rooms, {"action": "trust", "device": phone.id, "trusted": False})
    assert review(rooms, {})["trusted"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"action": "burn"},
        {"action": "take", "numbers": [1, 2], "text": "both"},
        {"action": "take", "numbers": ["1; DROP TABLE recordings"]},
        {"action": "take", "numbers": "1"},
        {"action": "trust", "device": "nobody"},
        {"action": "undo", "device": ""},
        {"action": "trust", "device": "revoked"},
    ],
)
def test_what_cannot(rooms: Rooms, phone: Device, arguments: dict[str, object]) -> None:
    device, _ = rooms.devices.add("revoked", "android", frozenset({RECORD}))
    rooms.devices.revoke(device.id)
    arrive(rooms.inbox, phone, 1)
    arrive(rooms.inbox, phone, 2)
    with pytest.raises(UsageError):
        review(rooms, arguments)
    assert [each.state for each in rooms.inbox.all()] == ["waiting", "waiting"]
