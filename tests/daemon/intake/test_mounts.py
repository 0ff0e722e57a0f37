"""Disks that come and go, and limits of the system, with real mounts (skipped where the machine allows none)."""

import os
import textwrap
from pathlib import Path

import pytest

from tests.daemon.intake.apart import run_apart

pytestmark = pytest.mark.slow


def test_a_disk_that_is_away_has_not_been_emptied(tmp_path: Path) -> None:
    run_apart(
        """
        disk, kept = home / "disk", home / "kept"
        mount(disk)
        put(disk / "a.wav")
        put(kept / "b.wav", 1)
        library = Library(home / "library.sqlite3")

        async def main():
            intake = Intake(library, [disk, kept], 0.1, 3600)
            task = asyncio.create_task(intake.run())
            await until(lambda: library.counts().ready == 2 and not intake.busy)
            subprocess.run(["mount", "--move", disk, home / "elsewhere"], check=True)
            await until(lambda: intake.warnings)
            assert intake.warnings == (f"{disk}: cannot be looked into: the disk that held its recordings is away",)
            assert library.counts().ready == 2

            subprocess.run(["mount", "--move", home / "elsewhere", disk], check=True)
            put(disk / "c.wav", 2)
            await until(lambda: library.counts().ready == 3 and not intake.warnings)
            task.cancel()

        (home / "elsewhere").mkdir()
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        asyncio.run(main())
        """,
        tmp_path,
    )


def test_a_disk_that_was_away_at_the_start(tmp_path: Path) -> None:
    run_apart(
        """
        disk = home / "recordings" / "disk"
        mount(disk)
        put(disk / "a.wav")
        library = Library(home / "library.sqlite3")

        async def look():
            intake = Intake(library, [home / "recordings"], 0.0, 3600)
            await intake.rescan()
            await intake.close()
            return intake

        asyncio.run(look())
        unmount(disk)
        away = asyncio.run(look())
        assert library.counts().ready == 1 and "is away" in away.warnings[0], away.warnings

        put(disk / "b.wav", 1)  # recordings where the disk was: the folder is the user's again
        asyncio.run(look())
        assert [r.path.name for r in library.recordings()] == ["b.wav"]
        (disk / "b.wav").unlink()
        assert asyncio.run(look()).warnings == ()
        assert library.recordings() == []
        """,
        tmp_path,
    )


def test_a_disk_that_could_not_be_read_before_it_was_away(tmp_path: Path) -> None:
    run_apart(
        """
        from daemon.intake import scan

        disk = home / "disk"
        mount(disk)
        put(disk / "a.wav")
        library = Library(home / "library.sqlite3")
        entries = scan._entries

        async def look():
            intake = Intake(library, [disk], 0.0, 3600)
            await intake.rescan()
            await intake.close()
            return intake

        def pulled(at, listing):
            raise OSError(5, "Input/output error")

        asyncio.run(look())
        scan._entries = pulled
        assert "Input/output error" in asyncio.run(look()).warnings[0]
        scan._entries = entries
        unmount(disk)
        away = asyncio.run(look())
        assert library.counts().ready == 1 and "is away" in away.warnings[0], away.warnings
        assert away.out_of_reach == f"1 recording in {disk}"
        """,
        tmp_path,
    )


def test_more_folders_than_the_system_watches(tmp_path: Path) -> None:
    run_apart(
        """
        folder = home / "recordings"
        for i in range(20):
            put(folder / str(i) / "a.wav", i)
            (folder / ".stversions" / str(i)).mkdir(parents=True)  # watched, too, and counted by nobody
        subprocess.run(["sysctl", "-qw", "user.max_inotify_watches=20"], check=True)
        library = Library(home / "library.sqlite3")

        async def main():
            intake = Intake(library, [folder], 0.1, 3600)
            task = asyncio.create_task(intake.run())
            await until(lambda: library.counts().ready == 20 and not intake.busy)
            await until(lambda: intake.warnings)
            for i in range(20, 40):
                put(folder / str(i - 20) / "b.wav", i)
            await until(lambda: library.counts().ready == 40)
            (warning,) = intake.warnings  # said once
            assert "watches fewer folders than the 21" in warning, warning
            task.cancel()

        asyncio.run(main())
        """,
        tmp_path,
    )


def test_no_watch_at_all(tmp_path: Path) -> None:
    run_apart(
        """
        folder = home / "recordings"
        folder.mkdir()
        subprocess.run(["sysctl", "-qw", "user.max_inotify_instances=0"], check=True)
        library = Library(home / "library.sqlite3")

        async def main():
            intake = Intake(library, [folder], 0.1, 3600)
            task = asyncio.create_task(intake.run())
            await until(lambda: intake.warnings)
            put(folder / "a.wav")
            await until(lambda: library.counts().ready == 1)
            (warning,) = intake.warnings
            assert "inotify instance limit reached" in warning, warning
            task.cancel()

        asyncio.run(main())
        """,
        tmp_path,
    )


def test_a_full_disk_under_the_library(tmp_path: Path) -> None:
    run_apart(
        """
        state, folder = home / "state", home / "recordings"
        mount(state, "-o", "size=4m")
        put(folder / "a.wav")
        library = Library(state / "library.sqlite3")
        (state / "filler").write_bytes(bytes(os.statvfs(state).f_bavail * 4096))

        async def look(intake):
            await intake.rescan()
            await intake.close()

        intake = Intake(library, [folder], 0.0, 3600)
        for i in range(1, 80):
            put(folder / f"{i} {'x' * 150}.wav", i)
        asyncio.run(look(intake))
        assert any("disk is full" in warning or "disk I/O" in warning for warning in intake.warnings), intake.warnings
        (state / "filler").unlink()
        asyncio.run(look(intake))
        assert intake.warnings == () and library.counts().ready == 80, intake.warnings
        """,
        tmp_path,
    )


SILENT = """
import ctypes
from daemon.intake import outlook

outlook.PATIENCE_S = module.PATIENCE_S = 1.0

def silent(at):
    # A FUSE mount whose file system never answers, not even the kernel's first question; closing what it gives ends it.
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    assert ctypes.CDLL(None).mount(b"silent", str(at).encode(), b"fuse", 0, options) == 0
    return descriptor

def speak(at, descriptor):
    os.close(descriptor)
    unmount(at)

"""


def test_a_folder_that_does_not_answer_holds_up_nobody(tmp_path: Path) -> None:
    need_fuse()
    run_apart(
        SILENT
        + textwrap.dedent("""
        away, here = home / "away", home / "here"
        put(away / "a.wav")
        put(here / "b.wav", 1)
        library = Library(home / "library.sqlite3")

        async def main():
            intake = Intake(library, [away, here], 0.1, 3600)
            task = asyncio.create_task(intake.run())
            await until(lambda: library.counts().ready == 2 and not intake.busy)
            descriptor = silent(away)
            await until(lambda: intake.warnings)
            assert intake.warnings == (f"{away}: cannot be looked into: the folder does not answer",), intake.warnings
            put(here / "c.wav", 2)
            await until(lambda: library.counts().ready == 3)
            assert intake.warnings

            speak(away, descriptor)
            put(away / "d.wav", 3)
            await until(lambda: library.counts().ready == 4 and not intake.warnings)

            silent(away)
            await until(lambda: intake.warnings)
            task.cancel()
            assert (await asyncio.wait([task], timeout=120))[0]

        asyncio.run(main())
        """),
        tmp_path,
    )


def test_a_folder_that_stops_answering_while_it_is_read(tmp_path: Path) -> None:
    need_fuse()
    run_apart(
        SILENT
        + textwrap.dedent("""
        away, descriptors = home / "away", []
        for i in range(20):
            put(away / f"{i}.wav", i)
        library = Library(home / "library.sqlite3")

        async def main():
            intake = Intake(library, [away], 0.1, 3600)

            def go_silent():
                if library.counts().ready == 3 and not descriptors:
                    descriptors.append(silent(away))

            intake.on_change = go_silent
            task = asyncio.create_task(intake.run())
            await until(lambda: intake.warnings)
            assert intake.warnings[0] == f"{away}: cannot be looked into: the folder does not answer", intake.warnings
            assert library.counts().rejected == 0
            speak(away, descriptors[0])
            await until(lambda: library.counts().ready == 20 and not intake.warnings)
            task.cancel()

        asyncio.run(main())
        """),
        tmp_path,
    )


def need_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here: /dev/fuse cannot be opened")
