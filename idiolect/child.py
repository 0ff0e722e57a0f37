"""Messages between a child process and its parent, both ends: one JSON object a line.

child → parent: `hello stage progress metric warning error done` on a duplicate of the child's stdout; file
descriptor 1 itself then points at stderr, because native libraries print. parent → child: a line `stop` on
stdin asks the child to save and exit; end of stdin means that the parent died, and asks the same.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import idiolect.errors
from idiolect.errors import IdiolectError, JobStopped

KINDS = frozenset({"hello", "stage", "progress", "metric", "warning", "error", "done"})
MAX_LINE_CHARS = 1 << 20


@dataclass(frozen=True)
class Message:
    """One line from a child: its kind and the rest of the object."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


def parse(line: str) -> Message | None:
    """The message in a line, or None for anything that is not one (a stray print must not end a job)."""
    if len(line) > MAX_LINE_CHARS:
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value["kind"] not in KINDS:
        return None
    return Message(value.pop("kind"), value)


def error_from(message: Message) -> IdiolectError:
    """The exception that an `error` message stands for, of the class it names where that class is ours."""
    name = str(message.data.get("error", "JobError"))
    text, hint = str(message.data.get("message", "failed")), str(message.data.get("hint", ""))
    cls = getattr(idiolect.errors, name, None)
    if not (isinstance(cls, type) and issubclass(cls, IdiolectError)):
        cls = idiolect.errors.JobError
    error = cls.__new__(cls)
    IdiolectError.__init__(error, text, hint)
    return error


class Reporter:
    """What long work tells while it runs, and how it learns that it should stop. This one is silent; see below."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def send(self, kind: str, **data: Any) -> None:  # noqa: ANN401
        """Tell the parent one message."""

    def stage(self, name: str) -> None:
        """A new stage of the work begins ("train", "evaluate", "export android-futo", …)."""
        self.send("stage", name=name)

    def progress(self, done: float, total: float, unit: str) -> None:
        """How far the stage is."""
        self.send("progress", done=done, total=total, unit=unit)

    def metric(self, **values: float | str) -> None:
        """Named numbers worth keeping (loss, WER, …)."""
        self.send("metric", **values)

    def warning(self, message: str) -> None:
        """Something the user should know that does not end the work."""
        self.send("warning", message=message)

    def check_stop(self) -> None:
        """Raise JobStopped when asked to stop."""
        if self.stop.is_set():
            raise JobStopped("stopped", "start it again: a training goes on where it was")


class CallbackReporter(Reporter):
    """A reporter in the same process: every message goes to a function."""

    def __init__(self, receive: Callable[[Message], None]) -> None:
        super().__init__()
        self._receive = receive

    def send(self, kind: str, **data: Any) -> None:  # noqa: ANN401
        self._receive(Message(kind, data))


class PipeReporter(Reporter):
    """The child's end: messages on a duplicate of stdout, `stop` from stdin. Make one, first thing in main()."""

    def __init__(self) -> None:
        super().__init__()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, name="stop-listener", daemon=True).start()
        self.send("hello", pid=os.getpid())

    def send(self, kind: str, **data: Any) -> None:  # noqa: ANN401
        line = json.dumps({"kind": kind, **data}, ensure_ascii=False, default=str)
        try:
            with self._lock:
                self._out.write(line + "\n")
        except OSError:  # the parent is gone: stop as if it had asked
            self.stop.set()

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                break
        self.stop.set()


def collect_rarely() -> None:
    """For a process about to load torch: its two thousand modules make the default collector run for a quarter of
    the time that loading takes (3.7 s against 2.9 s), and free nothing."""
    gc.set_threshold(10_000, 20, 20)


def run_child(work: Callable[[PipeReporter], dict[str, Any]]) -> int:
    """Body of a child's main(): do `work`, report its result as `done` or its failure as `error`; the exit status."""
    collect_rarely()
    reporter = PipeReporter()
    try:
        result = work(reporter)
    except IdiolectError as error:
        reporter.send("error", error=error.kind, message=error.message, hint=error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        reporter.send("error", error="JobStopped", message="stopped", hint="")
        return 130
    except MemoryError:
        hint = "close other programs, or choose a smaller tier"
        reporter.send("error", error="JobError", message="out of memory", hint=hint)
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        reporter.send("error", error="JobError", message=f"{type(error).__name__}: {error}", hint="see the job's log")
        return 1
    reporter.send("done", **result)
    return 0
