import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon.intake.intake import Intake
from daemon.intake.library import Library
from daemon.intake.reader import Reader
from tests.daemon.intake.test_reader import fake
from tests.training.samples import sound, write_wav

SETTLE_S = 0.2


class House:
    """A watched folder, its library and an intake over both."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "recordings"
        self.folder.mkdir()
        self.library = Library(home / "library.sqlite3")
        self.intake = Intake(self.library, [self.folder], SETTLE_S, 3600)

    def put(self, name: str, text: str | None = "some words", seconds: float = 0.5, seed: int = 0) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, sound(seconds, seed=seed))
        if text is not None:
            path.with_suffix(".txt").write_text(text)
        return path

    def reasons(self) -> dict[str, str]:
        return {str(r.path.relative_to(self.folder)): f"{r.state}: {r.reason}" for r in self.library.recordings()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.intake.run())
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(600):
            while not what():
                await asyncio.sleep(0.02)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.intake.close()
    house.library.close()


@pytest.mark.slow
async def test_recordings_arrive_as_a_sync_tool_writes_them(house: House, voices: Path) -> None:
    changes: list[tuple[int, bool]] = []
    house.intake.on_change = lambda: changes.append((house.library.counts().ready, house.intake.busy))
    async with house.running():
        for name in ("metadata.jsonl", *(f"digits_00{i}.ogg" for i in range(5))):
            temporary = house.folder / f".syncthing.{name}.tmp"
            shutil.copy(voices / "human" / name, temporary)
            temporary.rename(house.folder / name)
        await house.until(lambda: house.library.counts().ready == 5)
        await house.until(lambda: not house.intake.busy)

    assert changes == [(1, True), (2, True), (3, True), (4, True), (5, True), (5, False)]
    assert house.library.ready_clips()[0].text == "eight seven seven eight nine"
    assert house.library.counts().ready_s == pytest.approx(sum(c.duration_s for c in house.library.ready_clips()))
    assert house.intake.warnings == ()


@pytest.mark.slow
async def test_a_file_still_growing_is_left_alone(house: House) -> None:
    whole = house.put("a.wav", seconds=2).read_bytes()
    async with house.running():
        for i in range(1, 11):
            (house.folder / "a.wav").write_bytes(whole[: len(whole) * i // 10])
            await asyncio.sleep(SETTLE_S / 2)
            assert house.library.recordings() == [] or i == 10
        await house.until(lambda: house.library.counts().ready == 1)


@pytest.mark.slow
async def test_a_file_that_stopped_half_way_waits_for_the_rest(house: House) -> None:
    path = house.put("a.wav", seconds=2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    async with house.running():
        await house.until(lambda: house.library.counts().waiting == 1)
        assert "cut off" in house.reasons()["a.wav"]
        path.write_bytes(whole)
        await house.until(lambda: house.library.counts().ready == 1)


@pytest.mark.slow
async def test_text_late_edited_and_deleted_and_a_recording_deleted(house: House) -> None:
    path = house.put("a.wav", None)
    async with house.running():
        await house.until(lambda: house.library.counts().waiting == 1)
        assert house.reasons() == {"a.wav": "waiting: no text yet: put a.txt beside it"}

        path.with_suffix(".txt").write_text("first words")
        await house.until(lambda: house.library.counts().ready == 1)
        (before,) = house.library.ready_clips()

        path.with_suffix(".txt").write_text("other words")
        await house.until(lambda: house.library.ready_clips()[0].text == "other words")
        assert house.library.ready_clips()[0] == before.model_copy(update={"text": "other words"})

        path.with_suffix(".txt").unlink()
        await house.until(lambda: house.library.counts().waiting == 1)

        path.unlink()
        await house.until(lambda: house.library.recordings() == [])


@pytest.mark.slow
async def test_the_same_sound_twice_counts_once(house: House) -> None:
    shutil.copy(house.put("a.wav"), house.folder / "b.wav")
    (house.folder / "b.txt").write_text("some words")
    await house.intake.rescan()

    counts = house.library.counts()
    assert (counts.ready, counts.duplicate, counts.clips, counts.ready_s) == (1, 1, 1, 0.5)


@pytest.mark.slow
async def test_every_bad_file_has_its_reason_and_the_rest_goes_on(house: House) -> None:
    names = ["two words.wav", 'it\'s "so".wav', "line\nbreak.wav", "🎤.wav", "שלום.wav", "deep/er/a.wav"]
    for seed, name in enumerate(names):
        house.put(name, seed=seed)
    (house.folder / "empty.wav").touch()
    (house.folder / "letter.mp3").write_text("dear diary")
    os.utime(house.put("none.wav", seconds=0), (0, 0))  # not of a recorder that has just begun
    house.put("short.wav", seconds=0.05)
    house.put("talk.wav", seconds=31)
    house.put("mute.wav", "", seed=11)
    house.put("much.wav", "x" * 5000, seed=12)
    house.put("latin.wav", seed=13).with_suffix(".txt").write_bytes(b"gr\xfc\xdfe")
    os.mkfifo(house.folder / "pipe.wav")
    (house.folder / "folder.wav").mkdir()
    (house.folder / "link.wav").symlink_to("/dev/zero")
    (house.folder / "elsewhere").symlink_to("/")
    for latin in (b"caf\xe9.wav", b"caf\xe9.txt", b"caf\xe9.sync-conflict-20260101-120000-ABCDEFG.wav"):
        os.close(os.open(os.path.join(os.fsencode(house.folder), latin), os.O_CREAT, 0o600))  # noqa: PTH118

    before = {path: path.lstat().st_mtime_ns for path in house.folder.rglob("*")}
    await house.intake.rescan()

    assert {str(r.path.relative_to(house.folder)) for r in house.library.recordings("ready")} == set(names)
    reasons = house.reasons()
    for name, words in {
        "empty.wav": "the file is empty",
        "letter.mp3": "not audio",
        "none.wav": "0.00 s of audio is too short",
        "short.wav": "0.05 s of audio is too short",
        "talk.wav": "put talk.srt",
        "mute.wav": "the text is empty",
        "much.wav": "5000 characters",
        "latin.wav": "not UTF-8",
        "pipe.wav": "a pipe",
        "folder.wav": "a folder",
        "link.wav": "a link",
        "elsewhere": "a link",
        "caf\\xe9.wav": "its name is not valid UTF-8",
    }.items():
        assert reasons.pop(name).startswith("rejected: ")
        assert words in house.reasons()[name]
    assert set(reasons) == set(names)
    assert "caf\\xe9.sync-conflict" in "".join(house.intake.warnings)
    assert {path: path.lstat().st_mtime_ns for path in house.folder.rglob("*")} == before


async def test_what_has_not_changed_is_not_read_again(house: House, tmp_path: Path) -> None:
    house.put("a.wav")
    await house.intake.rescan()

    second = Intake(house.library, [house.folder], 0.0, 3600, reader=Reader((sys.executable, "-c", "exit(1)")))
    second.on_change = lambda: pytest.fail("nothing changed")
    await second.rescan()

    assert second.warnings == ()
    assert house.library.counts().ready == 1


async def test_no_worker_is_a_warning_and_no_fault_of_the_recordings(house: House) -> None:
    house.put("a.wav")
    intake = Intake(house.library, [house.folder], 0.0, 3600, reader=Reader((sys.executable, "-c", "exit(1)")))

    await intake.rescan()

    assert "does not start" in intake.warnings[0]
    assert house.library.recordings() == []
    assert not intake.busy


@pytest.mark.slow
async def test_what_hindered_all_recordings_is_tried_again_soon(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.intake.intake.POLL_S", 0.1)
    house.put("a.wav")
    house.intake = Intake(house.library, [house.folder], 0.0, 3600, reader=Reader((sys.executable, "-c", "exit(1)")))
    async with house.running():
        await house.until(lambda: house.intake.warnings != ())
        house.intake._readers = (Reader(),)
        await house.until(lambda: house.library.counts().ready == 1)
        assert house.intake.warnings == ()


async def test_a_crash_costs_one_recording(house: House) -> None:
    for name in ("a.wav", "crash.wav", "z.wav"):
        house.put(name)
    intake = Intake(house.library, [house.folder], 0.0, 3600, reader=Reader(fake()))
    await intake.rescan()
    await intake.close()

    assert [recording.state for recording in house.library.recordings()] == ["waiting", "rejected", "waiting"]
    assert "the decoder crashed on it" in house.reasons()["crash.wav"]


@pytest.mark.slow
async def test_a_missing_folder_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.intake.intake.POLL_S", 0.1)
    house.put("a.wav")
    await house.intake.rescan()
    away = house.folder.with_name("away")
    house.folder.rename(away)

    async with house.running():
        await house.until(lambda: len(house.intake.warnings) == 1)
        assert house.intake.warnings[0].startswith(f"{house.folder}: cannot be looked into")
        assert house.library.counts().ready == 1  # an unplugged disk has not been emptied

        away.rename(house.folder)
        await house.until(lambda: house.intake.warnings == ())
        house.put("b.wav", seed=1)
        await house.until(lambda: house.library.counts().ready == 2)


@pytest.mark.slow
async def test_what_comes_back_unchanged_is_ready_at_once(house: House) -> None:
    path = house.put("a.wav")
    await house.intake.rescan()
    path.rename(house.folder.parent / "a.wav")
    await house.intake.rescan()
    assert house.library.counts().ready == 0

    (house.folder.parent / "a.wav").rename(path)
    reading = Intake(house.library, [house.folder], 0.0, 3600, reader=Reader((sys.executable, "-c", "exit(1)")))
    await reading.rescan()
    assert house.library.counts().ready == 1


@pytest.mark.slow
async def test_folders_no_longer_watched_leave_the_library(house: House, tmp_path: Path) -> None:
    house.put("a.wav")
    await house.intake.rescan()

    await Intake(house.library, [tmp_path / "other"], 0.0, 3600).rescan()

    assert house.library.recordings() == []


@pytest.mark.slow
async def test_polling_finds_changes_without_events(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.intake.intake.POLL_S", 0.1)
    house.intake = Intake(house.library, [house.folder], SETTLE_S, 3600, polling=True)
    async with house.running():
        house.put("a.wav")
        await house.until(lambda: house.library.counts().ready == 1)


@pytest.mark.slow
async def test_a_full_disk_is_a_warning_and_the_recording_is_taken_later(house: House) -> None:
    house.put("a.wav")
    pages = house.library._db.execute("PRAGMA page_count").fetchone()[0]
    house.library._db.execute(f"PRAGMA max_page_count = {pages}")
    for i in range(30):
        house.put(f"long name to fill a page of the library with some text {i} {'x' * 100}.wav", None, seed=i)

    await house.intake.rescan()
    assert "database or disk is full" in house.intake.warnings[0]

    house.library._db.execute("PRAGMA max_page_count = 100000")
    await house.intake.rescan()
    assert house.intake.warnings == ()
    assert house.library.counts().ready + house.library.counts().waiting == 31


async def test_a_read_only_folder_is_read(house: House) -> None:
    house.put("a.wav")
    house.folder.chmod(0o500)
    try:
        await house.intake.rescan()
    finally:
        house.folder.chmod(0o700)

    assert house.library.counts().ready == 1


def test_the_resident_side_imports_no_numpy_and_no_audio_library() -> None:
    code = "import sys, daemon.intake.intake; print({'numpy', 'av', 'torch'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"


@pytest.mark.slow
async def test_a_remark_ends_when_its_cause_does(house: House) -> None:
    path = house.put("a.wav", "שלום לכולם", seconds=2)
    louder = house.folder / "b.wav"
    write_wav(louder, 0.5 * sound(2, seed=0))
    louder.with_suffix(".txt").write_text("שלום לכולם")
    await house.intake.rescan()
    assert "Hebrew" in house.reasons()["a.wav"]
    assert f"nearly the same take as {path}" in house.reasons()["b.wav"]

    path.unlink()
    hebrew = Intake(house.library, [house.folder], SETTLE_S, 3600, language="he")
    await house.intake.rescan()
    assert "Hebrew" in house.reasons()["b.wav"]
    assert "same take" not in house.reasons()["b.wav"]
    await hebrew.rescan()
    await hebrew.close()
    assert "Hebrew" not in house.reasons()["b.wav"]
