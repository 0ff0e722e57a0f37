"""Files that must survive a crash: atomic writes, digests, safe relative paths."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from idiolect.errors import UsageError

CHUNK_BYTES = 1 << 20
_SAFE_RELPATH = re.compile(r"[A-Za-z0-9._-]{1,80}(/[A-Za-z0-9._-]{1,80}){0,6}")


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` whole or not at all (temp + fsync + rename + fsync of the folder)."""
    with replacing(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), mode)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:  # noqa: ANN401
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", mode)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` that takes its place when the block ends well and vanishes when it does not."""
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        take_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def take_place(written: Path, path: Path) -> None:
    """Rename `written` to `path`, on the same disk, over whatever stands there: a file, a link or a folder."""
    if not (path.is_dir() or (written.is_dir() and os.path.lexists(path))):
        written.replace(path)  # in one go; neither a folder over something nor a file over a folder can be
    else:
        old = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}.old")
        path.rename(old)
        try:
            written.rename(path)
        except BaseException:
            old.rename(path)
            raise
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (a no-op where folders cannot be opened, as on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_safe_relpath(path: str) -> bool:
    """True for a relative path that a manifest may name: plain ASCII parts, at most seven, no `.` or `..`."""
    return _SAFE_RELPATH.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))


def safe_join(folder: Path, relpath: str) -> Path:
    """`folder / relpath`, refused with UsageError unless `is_safe_relpath`."""
    if not is_safe_relpath(relpath):
        raise UsageError(f"unsafe path {relpath!r}", "expected letters, digits, '.', '_', '-' in at most seven parts")
    return folder / relpath


def free_bytes(folder: Path) -> int:
    """Free disk space in bytes where `folder` (or its nearest existing parent) lies."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def folder_bytes(path: Path) -> int:
    """Size in bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
