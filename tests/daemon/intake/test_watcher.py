import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.intake.watcher import Watcher, falls_short, is_remote, is_remote_kind, kind_of, watches_held

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


@pytest.mark.slow
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


MOUNTINFO = """\
25 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
88 25 259:3 / /home rw,relatime shared:44 - btrfs /dev/nvme0n1p3 rw,ssd,space_cache=v2,subvol=/home
97 88 0:47 / /home/ann/phone rw,nosuid,nodev,relatime shared:51 - fuse.sshfs ann@phone:/sdcard rw,user_id=1000
99 88 0:52 / /home/ann/.local/share/gvfs rw,nosuid,nodev - fuse.gvfsd-fuse gvfsd-fuse rw,user_id=1000,group_id=1000
101 88 0:55 / /home/ann/cloud rw,nosuid,nodev - fuse.rclone gdrive: rw,user_id=1000,group_id=1000
110 25 0:58 / /mnt/nas rw,relatime shared:60 - autofs systemd-1 rw,fd=58,pgrp=1,timeout=0,minproto=5,direct
111 110 0:60 / /mnt/nas rw,relatime shared:61 - nfs4 nas:/export/voice rw,vers=4.2,hard,proto=tcp,timeo=600
112 25 0:61 / /mnt/share rw,relatime - cifs //nas/share rw,vers=3.1.1,cache=strict,username=ann,uid=1000
113 25 8:17 / /media/ann/STICK rw,nosuid,nodev - vfat /dev/sdb1 rw,uid=1000,errors=remount-ro
114 25 8:33 / /media/ann/OLD rw,nosuid,nodev - fuseblk /dev/sdc1 rw,user_id=0,allow_other,blksize=4096
115 25 0:62 / /mnt/c rw,noatime - 9p drvfs rw,dirsync,aname=drvfs;path=C:\\;uid=1000,trans=fd,rfd=5,wfd=5
116 25 0:63 / /mnt/host rw,relatime - virtiofs host0 rw
117 112 8:49 / /mnt/share/local rw,relatime - xfs /dev/sdd1 rw,attr2
"""


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        ("/srv/recordings", False),
        ("/home/ann/recordings", False),
        ("/home/ann/phone", True),
        ("/home/ann/phonebook", False),
        ("/home/ann/phone/recordings", True),
        ("/home/ann/.local/share/gvfs/smb-share", True),
        ("/home/ann/cloud/voice", True),
        ("/mnt/nas/voice", True),
        ("/mnt/share", True),
        ("/mnt/share/local/voice", False),
        ("/media/ann/STICK", False),
        ("/media/ann/OLD/voice", False),
        ("/mnt/c/Users/ann", True),
        ("/mnt/host", True),
        (r"\\nas\share\voice", True),
    ],
)
def test_network_mounts_of_a_machine_that_has_all_of_them(folder: str, remote: bool) -> None:
    fields = [line.split() for line in MOUNTINFO.splitlines()]
    mounts = [(words[4], words[words.index("-") + 1]) for words in fields]
    assert is_remote_kind(kind_of(folder, mounts)) is remote


@pytest.mark.parametrize("kind", ["smbfs", "afpfs", "webdav", "macfuse"])
def test_network_mounts_of_a_mac(kind: str) -> None:
    assert is_remote_kind(kind)
    assert not is_remote_kind("apfs")


def test_this_machine(tmp_path: Path) -> None:
    assert not is_remote(tmp_path)


@pytest.mark.parametrize(
    ("held", "folders", "short"),
    [
        ([1, 2, 3], {1, 2, 3}, False),
        ([1, 2, 9, 10], {1, 2, 3}, True),  # as many watches, but of folders that do not count
        ([1, 1, 2], {1, 2}, False),
        ([7, 8], {1, 2}, False),  # numbers that cannot be compared
        ([7], {1, 2}, True),
        ([], {1}, True),
        ([], set(), False),
    ],
)
def test_a_folder_that_is_not_watched(held: list[int], folders: set[int], short: bool) -> None:
    assert falls_short(held, folders) is short


def test_what_is_watched_is_told(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "deep").mkdir()
    watcher, _ = watch(tmp_path)
    assert watcher.check()
    held = watches_held()
    assert held is None or {tmp_path.stat().st_ino, (tmp_path / "deep").stat().st_ino} <= set(held)


def test_network_mounts_are_looked_at_instead(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.intake.watcher.is_remote", lambda folder: True)
    watcher, _ = watch(tmp_path)
    assert not watcher.check()
    assert not watcher.watching
