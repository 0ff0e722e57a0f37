"""What work says where nobody looks at a terminal: a line when a stage begins and one when it ends.

The resident process under a service manager needs no more, and without rich it is 2.5 MB smaller.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from idiolect.child import Message, Reporter


def printable(text: str, *, lines: bool = False) -> str:
    """Text from outside without control characters that could move the cursor or, unless `lines` are allowed, end a
    line."""
    return "".join(char if char.isprintable() or (lines and char == "\n") else "�" for char in text)


def megabytes(size_bytes: float) -> str:
    """A size in millions of bytes."""
    return f"{size_bytes / 1e6:.1f} MB"


def span(duration_s: float) -> str:
    """A time as people say it: 90 s, 4 minutes."""
    return f"{duration_s:.0f} s" if duration_s < 120 else f"{duration_s / 60:.0f} minutes"


def estimate_line(estimate: Mapping[str, Any]) -> str:
    """What a training will take: `estimated_bytes` of memory, and `estimated_s` by its first steps' pace."""
    said = []
    if "estimated_s" in estimate:
        said.append(f"about {span(estimate['estimated_s'])}")
    if "estimated_bytes" in estimate:
        said.append(f"about {estimate['estimated_bytes'] / 1e9:.1f} GB of memory")
    return f"training takes {' and '.join(said)}"


def count(done: float, total: float, unit: str) -> str:
    """How far a stage is: 3/8 clips, 1.5/40.0 MB."""
    if unit == "bytes":
        return f"{done / 1e6:.1f}/{megabytes(total)}"
    return f"{done:g}/{total:g} {unit}"


class LineReporter(Reporter):
    """Shows a job's messages as lines on standard error; use it as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._stage: str | None = None
        self._far: tuple[float, float, str] | None = None

    def __enter__(self) -> LineReporter:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self.end(failed=kind is not None)

    def send(self, kind: str, **data: Any) -> None:  # noqa: ANN401
        self.show(Message(kind, data))

    def show(self, message: Message) -> None:
        """One message of a job, from this process or another."""
        data = message.data
        if message.kind == "stage":
            self._end_stage(failed=False)
            self._stage, self._far = printable(str(data["name"])), None
            self._begin(self._stage)
        elif message.kind == "progress" and self._stage is not None:
            self._far = data["done"], data["total"], data["unit"]
            self._advance(*self._far)
        elif message.kind == "metric" and self._stage is not None:
            self._measure(data)
            if data.keys() & {"estimated_s", "estimated_bytes"}:
                self.note(estimate_line(data))
            if "continued_at_step" in data:
                self.note(f"goes on at step {data['continued_at_step']}, where it was ended")
        elif message.kind == "warning":
            self._warn(printable(str(data["message"])))

    def note(self, line: str) -> None:
        """A line of its own."""
        print(line, file=sys.stderr, flush=True)

    def end(self, *, failed: bool = False) -> None:
        """The work has ended; the stage that `failed` is not called done."""
        self._end_stage(failed)

    def _end_stage(self, failed: bool) -> None:
        if self._stage is None:
            return
        if self._far is not None and not failed:
            # A view that looks now and then has not seen the last message of a stage.
            self._far = self._far[1], self._far[1], self._far[2]
        self._finish(self._stage, count(*self._far) if self._far else "", failed)
        self._stage = None

    def _begin(self, stage: str) -> None:
        self.note(f"{stage} …")

    def _advance(self, done: float, total: float, unit: str) -> None:
        pass

    def _measure(self, values: Mapping[str, Any]) -> None:
        pass

    def _warn(self, text: str) -> None:
        self.note(f"warning: {text}")

    def _finish(self, stage: str, count: str, failed: bool) -> None:
        self.note(f"{stage} {'not finished' if failed else 'done'} {count}".rstrip())
