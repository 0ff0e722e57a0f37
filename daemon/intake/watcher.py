"""Notices that something changed below a folder: events where the system tells, a look now and then where not."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

from daemon.intake.scan import is_below
from training.sync_names import is_temporary

_NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs afpfs webdav davfs ncpfs 9p virtiofs afs ceph lustre beegfs glusterfs gfs2 ocfs2 "
    "orangefs coda vboxsf vmhgfs prl_fs drvfs".split()
)
_FAREWELL_S = 1.0
_INODE = re.compile(rb" ino:([0-9a-f]+)")
_FUSE = frozenset({"fuse", "macfuse", "osxfuse", "fskit"})
_LOCAL_FUSE = frozenset("fuse.ext4 fuse.ntfs fuse.ntfs-3g fuse.exfat fuse.fuse-overlayfs".split())


def is_remote(folder: Path) -> bool:
    """Whether `folder` lies on a mount where other machines' changes raise no events here."""
    import psutil

    try:
        mounts = [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    except OSError:
        return False
    return is_remote_kind(kind_of(str(folder.resolve()), mounts))


def kind_of(path: str, mounts: Sequence[tuple[str, str]]) -> str:
    """The kind of file system that holds a resolved path, by (mount point, kind) in the order of mounting.

    Of two at one place the later counts: an automount is there before the network's file system that it brings.
    """
    kind, deepest = "", -1
    for point, found in mounts:
        if is_below(path, point) and len(point) >= deepest:
            kind, deepest = found, len(point)
    return "unc" if path.startswith("\\\\") else kind  # a Windows share, whichever letter it was given


def is_remote_kind(kind: str) -> bool:
    """Whether a file system of this kind may be changed by other machines unseen; what FUSE brings, as a rule."""
    kind = kind.lower()
    return kind in _NETWORK or kind == "unc" or (kind.split(".")[0] in _FUSE and kind not in _LOCAL_FUSE)


def watches_held() -> list[int] | None:
    """The inode numbers that this process's inotify watches; None where the system does not tell. From proc(5)."""
    held: list[int] | None = None
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc/self/fdinfo"):
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:  # noqa: PTH123
                found = [_INODE.search(line) for line in file if line.startswith(b"inotify ")]
                held = [*(held or ()), *(int(match[1], 16) for match in found if match)]
    return held


def falls_short(held: Sequence[int], folders: Collection[int]) -> bool:
    """Whether one of `folders` is not watched, all by inode number; where none is found the numbers are of different
    kinds, as on some stacked file systems, and only their count tells."""
    unwatched = set(folders) - set(held)
    return len(held) < len(folders) if len(unwatched) == len(folders) else bool(unwatched)


class Watcher:
    """Calls `wake`, from a thread of its own, whenever something below `folder` was made, written, moved or deleted.

    Reading a file wakes nobody. `check` sets the watch up and renews it where the folder itself was replaced;
    while it answers False there are no events, and the caller must look by itself.
    """

    def __init__(self, folder: Path, wake: Callable[[], object], polling: bool = False) -> None:
        self._folder = folder
        self._wake = wake
        self._polling = polling
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self.problem = ""

    def check(self) -> bool:
        """Watch the folder as it is now. False when it is missing, on a network mount, or cannot be watched."""
        try:
            status = self._folder.stat()
        except OSError:
            self.stop()
            return False
        identity = (status.st_dev, status.st_ino)
        if identity != self._watched:
            self.stop()
            self._watched = identity
            if not self._polling and not is_remote(self._folder):
                self._start()
        return self.watching

    @property
    def watching(self) -> bool:
        """Whether events come."""
        return self._observer is not None and self._observer.is_alive()

    @property
    def stale(self) -> bool:
        """Whether the folder is not the one that `check` saw: a disk came or went. Cheap enough to ask all day."""
        try:
            status = self._folder.stat()
        except OSError:
            return self._watched is not None
        return (status.st_dev, status.st_ino) != self._watched

    def stop(self) -> None:
        """Watch no longer."""
        observer, self._observer, self._watched = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join(_FAREWELL_S)  # longer waits one that asks a network folder that answers no more

    def _start(self) -> None:
        from watchdog import events
        from watchdog.observers import Observer

        class Handler(events.FileSystemEventHandler):
            def on_any_event(_, event: FileSystemEvent) -> None:
                self._on_event(event)

        telling = [
            events.FileCreatedEvent,
            events.FileModifiedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
            events.DirDeletedEvent,
        ]
        try:
            observer = Observer()
            observer.schedule(Handler(), str(self._folder), recursive=True, event_filter=telling)
            observer.start()
        except OSError as error:  # the system's limit of watches, most often
            self.problem = f"{self._folder}: no change events ({error.strerror}); looking every few seconds instead"
            return
        self.problem = ""
        self._observer = observer

    def _on_event(self, event: FileSystemEvent) -> None:
        """Temporary files may be written many times a second while a sync tool works: they wake nobody."""
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        if any(not is_temporary(os.path.basename(path)) for path in paths):  # noqa: PTH119
            self._wake()
