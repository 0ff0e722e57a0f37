"""What sync tools, phones and people do to a folder."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.intake.intake import Intake
from tests.daemon.intake.test_intake import SETTLE_S, House
from tests.training.samples import sound, write_wav

pytestmark = pytest.mark.slow


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.intake.close()
    house.library.close()


def names(house: House) -> list[str]:
    return [str(recording.path.relative_to(house.folder)) for recording in house.library.recordings("ready")]


@pytest.mark.parametrize(
    "temporary",
    [
        ".syncthing.a.wav.tmp",
        ".a.wav.~1f3c",
        ".a.wav.Xy12Zq",
        "a.wav.!sync",
        "a.wav.part",
        "a.wav.crdownload",
        ".pending-1700000000-a.wav",
        "a.wav.1f2e3d4c.partial",
    ],
)
async def test_a_file_counts_once_it_has_its_name(house: House, temporary: str) -> None:
    path = house.put("a.wav", "some words")
    path.rename(house.folder / temporary)
    await house.intake.rescan()
    assert house.library.recordings() == []

    (house.folder / temporary).rename(path)
    await house.intake.rescan()
    assert names(house) == ["a.wav"]


async def test_a_slow_write_with_long_pauses_waits(house: House) -> None:
    whole = house.put("a.wav", seconds=2).read_bytes()
    states = []
    for share in (0.3, 0.6, 0.9, 1.0):
        (house.folder / "a.wav").write_bytes(whole[: int(len(whole) * share)])
        await house.intake.rescan()
        states += [recording.state for recording in house.library.recordings()]
    assert states == ["waiting", "waiting", "waiting", "ready"]


async def test_a_folder_renamed_and_a_case_changed_keep_the_sides(house: House) -> None:
    for seed in range(6):
        house.put(f"day/{seed}.wav", f"words {seed}", seed=seed)
    await house.intake.rescan()
    sides = {clip.pcm_sha256: clip.side for clip in house.library.ready_clips()}

    (house.folder / "day").rename(house.folder / "Night")
    (house.folder / "Night" / "0.wav").rename(house.folder / "Night" / "0.WAV")
    await house.intake.rescan()

    assert names(house) == ["Night/0.WAV", *(f"Night/{seed}.wav" for seed in range(1, 6))]
    assert {clip.pcm_sha256: clip.side for clip in house.library.ready_clips()} == sides


async def test_a_file_replaced_by_renaming_another_onto_it(house: House) -> None:
    path = house.put("a.wav")
    await house.intake.rescan()
    (before,) = house.library.ready_clips()

    write_wav(house.folder / ".a.wav.tmp", sound(0.5, seed=3)).replace(path)
    await house.intake.rescan()

    (after,) = house.library.ready_clips()
    assert (after.text, after.pcm_sha256 == before.pcm_sha256) == (before.text, False)


def swap(one: Path, other: Path) -> None:
    aside = one.with_name(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("swapped", [".wav", ".txt"])
async def test_files_of_one_size_and_time_swapped_by_name(house: House, swapped: str) -> None:
    paths = [house.put(f"{name}.wav", f"call {name}", seed=seed) for seed, name in enumerate(("mum", "dad"))]
    for path in house.folder.iterdir():
        os.utime(path, ns=(0, 10**18))
    await house.intake.rescan()
    before = {clip.pcm_sha256: clip.text for clip in house.library.ready_clips()}

    swap(paths[0].with_suffix(swapped), paths[1].with_suffix(swapped))
    await house.intake.rescan()

    after = {clip.pcm_sha256: clip.text for clip in house.library.ready_clips()}
    assert after == dict(zip(before, reversed(before.values()), strict=True))


async def test_other_permissions_are_no_change(house: House) -> None:
    path = house.put("a.wav")
    await house.intake.rescan()
    read_at = house.library.last_arrival()

    path.chmod(0o600)
    path.with_suffix(".txt").chmod(0o600)
    await house.intake.rescan()
    assert house.library.last_arrival() == read_at


def of_a_dead_recorder(path: Path) -> Path:
    """A WAV whose writer never came to fill in its size."""
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes(4) + data[44:])
    return path


async def test_a_recording_without_an_end_waits_until_it_stood_still(house: House) -> None:
    path = of_a_dead_recorder(house.put("a.wav", seconds=2))
    await house.intake.rescan()
    assert house.reasons() == {
        "a.wav": "waiting: it does not say where it ends: taken when nobody has written to it for 60 s"
    }

    minute_ago_s = path.stat().st_mtime - 61
    os.utime(path, (minute_ago_s, minute_ago_s))
    await house.intake.rescan()
    (clip,) = house.library.ready_clips()
    assert clip.duration_s == 2.0


async def test_a_recording_without_an_end_is_looked_at_again_by_itself(house: House) -> None:
    path = of_a_dead_recorder(house.put("a.wav", seconds=2))
    just_short_s = path.stat().st_mtime - 58
    os.utime(path, (just_short_s, just_short_s))
    async with house.running():  # nothing tells of a change; the next look by itself would be in an hour
        await house.until(lambda: house.library.counts().ready == 1)


async def test_hard_links_count_once(house: House) -> None:
    path = house.put("a.wav")
    (house.folder / "b.wav").hardlink_to(path)
    (house.folder / "b.txt").hardlink_to(path.with_suffix(".txt"))
    await house.intake.rescan()

    counts = house.library.counts()
    assert (counts.ready, counts.duplicate, counts.clips) == (1, 1, 1)


async def test_links_out_of_the_folder_are_told_and_not_followed(house: House, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_wav(outside / "secret.wav", sound(0.5))
    (house.folder / "a.wav").symlink_to(outside / "secret.wav")
    (house.folder / "a.txt").write_text("words")
    (house.folder / "all").symlink_to(outside)
    await house.intake.rescan()

    assert house.library.counts().ready == 0
    assert all("links are not followed" in reason for reason in house.reasons().values())
    assert set(house.reasons()) == {"a.wav", "all"}


async def test_conflict_copies_are_told_by_name_and_not_learned_from(house: House) -> None:
    house.put("a.wav")
    house.put("a.sync-conflict-20240101-120000-ABCDEFG.wav", "other words", seed=1)
    house.put("b (conflicted copy 2024-01-01 120000).wav", None, seed=2)
    await house.intake.rescan()

    assert names(house) == ["a.wav"]
    (warning,) = house.intake.warnings
    assert warning.startswith("3 conflict copies are not learned from")
    assert "a.sync-conflict-20240101-120000-ABCDEFG.wav" in warning

    for path in house.folder.glob("*conflict*"):
        path.unlink()
    await house.intake.rescan()
    assert house.intake.warnings == ()


async def test_a_recording_moved_to_the_cloud_is_not_forgotten(house: House) -> None:
    path = house.put("a.wav")
    await house.intake.rescan()
    path.rename(house.folder.parent / "a.wav")
    (house.folder / ".a.wav.icloud").write_text("placeholder")
    await house.intake.rescan()

    assert names(house) == ["a.wav"]
    assert "only on the sync tool's server" in house.intake.warnings[0]

    (house.folder / ".a.wav.icloud").unlink()
    await house.intake.rescan()
    assert names(house) == []


async def test_two_folders_one_of_them_missing(house: House, tmp_path: Path) -> None:
    house.put("a.wav")
    other = tmp_path / "other"
    other.mkdir()
    write_wav(other / "b.wav", sound(0.5, seed=1))
    (other / "b.txt").write_text("more words")
    intake = Intake(house.library, [house.folder, other, house.folder / "..", tmp_path / "gone"], 0.0, 3600)
    await intake.rescan()
    await intake.close()

    assert sorted(recording.path.name for recording in house.library.recordings("ready")) == ["a.wav", "b.wav"]
    assert [warning.split(":")[0] for warning in intake.warnings] == [str(tmp_path / "gone")]

    shutil.rmtree(other)
    again = Intake(house.library, [house.folder, other], 0.0, 3600)
    await again.rescan()
    assert house.library.counts().ready == 2  # a missing folder has not been emptied


async def test_files_that_come_and_go_while_they_are_listed(house: House) -> None:
    house.put("a.wav")

    async def storm() -> None:
        for turn in range(200):
            path = house.folder / f"{turn}.part"
            path.touch()
            await asyncio.sleep(0)
            os.unlink(path)  # noqa: PTH108

    async with house.running():
        await storm()
        await house.until(lambda: house.library.counts().ready == 1)
        await asyncio.sleep(SETTLE_S)
    assert names(house) == ["a.wav"]
