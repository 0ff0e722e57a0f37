import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.intake.watcher import Watcher, is_remote

Watch = Callable[..., tuple[Watcher, threading.Event]]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watchers: list[Watcher] = []

    def start(folder: Path, polling: bool = False) -> tuple[Watcher, threading.Event]:
        woken = threading.Event()
        watchers.append(Watcher(folder, woken.set, polling))
        return watchers[-1], woken

    yield start
    for watcher in watchers:
        watcher.stop()


def test_wakes_for_every_kind_of_change(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old.txt").write_text("one")
    watcher, woken = watch(tmp_path)
    assert watcher.check()

    def move_in() -> None:
        (tmp_path / ".a.wav.tmp").write_text("x")
        (tmp_path / ".a.wav.tmp").rename(tmp_path / "a.wav")

    for change in (
        move_in,
        lambda: (tmp_path / "deep" / "old.txt").write_text("two"),
        lambda: (tmp_path / "deep" / "old.txt").unlink(),
        lambda: (tmp_path / "new").mkdir(),
        lambda: (tmp_path / "new" / "b.wav").write_text("x"),
    ):
        change()
        assert woken.wait(5)
        while woken.wait(0.2):
            woken.clear()


def test_reading_and_temporary_files_wake_nobody(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "a.wav").write_text("x")
    watcher, woken = watch(tmp_path)
    assert watcher.check()

    (tmp_path / "a.wav").read_text()
    (tmp_path / ".syncthing.a.wav.tmp").write_text("x")

    assert not woken.wait(0.5)


def test_a_folder_that_comes_goes_and_comes_again(tmp_path: Path, watch: Watch) -> None:
    folder = tmp_path / "usb"
    watcher, woken = watch(folder)

    assert not watcher.check()
    for _ in range(2):
        folder.mkdir()
        assert watcher.check()
        assert watcher.check()
        woken.clear()
        (folder / "a.wav").write_text("x")
        assert woken.wait(5)
        shutil.rmtree(folder)
        assert not watcher.check()


def test_polling_asks_for_no_events(tmp_path: Path, watch: Watch) -> None:
    watcher, woken = watch(tmp_path, polling=True)

    assert not watcher.check()
    (tmp_path / "a.wav").write_text("x")
    assert not woken.wait(0.3)
    assert watcher.problem == ""


def test_no_more_watches(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    from watchdog.observers import Observer

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(Observer, "schedule", refuse)
    watcher, _ = watch(tmp_path)

    assert not watcher.check()
    assert "inotify watch limit reached" in watcher.problem


@pytest.mark.parametrize(
    ("kind", "remote"), [("ext4", False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("fuseblk", False)]
)
def test_network_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, remote: bool) -> None:
    import psutil

    class Mount:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    mounts = [Mount("/", "nfs"), Mount(str(tmp_path), kind), Mount(str(tmp_path) + "2", "nfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)

    assert is_remote(tmp_path / "recordings") is remote


def test_this_machine(tmp_path: Path) -> None:
    assert not is_remote(tmp_path)
