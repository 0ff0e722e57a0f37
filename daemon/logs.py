"""The daemon's log: rotating, private, one line an event whatever a file is called."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 1_000_000
BACKUPS = 2


class OneLine(logging.Formatter):
    """Control characters of a message become visible escapes; only a traceback has lines of its own, indented.

    A traceback tells where, never with what: source lines hold no values, so no transcript either.
    """

    def format(self, record: logging.LogRecord) -> str:
        own = copy.copy(record)
        own.exc_text = None  # another handler's formatter may have left its own
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def formatException(self, ei) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return "\n".join("  " + one_line(line) for line in super().formatException(ei).split("\n"))


def one_line(text: str) -> str:
    """`text` with every unprintable character as its escape (a newline as \\n), lone surrogates included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@contextlib.contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """While the block runs, what is logged goes to `path` (0600) and, when that is full, to at most BACKUPS more."""
    handler = _Handler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
    path.chmod(0o600)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.getLogger("idiolect").setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _Handler(RotatingFileHandler):
    """What a full disk does not take is lost: `status` tells of the disk, and a terminal is no place for tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        stream, self.stream = self.stream, None  # opened anew by the next record, without what could not be written
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
