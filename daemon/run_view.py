"""What `idiolect run` shows: a line for each event, and in a terminal a progress bar while a job runs."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from daemon.lines import LineReporter, printable
from daemon.paths import Paths
from idiolect.child import Message

_FIGURE = re.compile(r"\d+ (?=%|s\b|minutes\b)")


class RunView:
    """Give `show` to the Daemon as its `on_event`; use it as a context manager."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._terminal = sys.stderr.isatty()
        self._waited_for = ""
        self._bar: LineReporter | None = None  # only while a job runs: a live display wakes up ten times a second

    def __enter__(self) -> RunView:
        self._line(f"idiolect keeps its things in {self._paths.state}; Ctrl-C ends it, nothing is lost")
        return self

    def __exit__(self, *error: object) -> None:
        self._end_bar(failed=True)

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """One event of the Daemon."""
        if kind == "job":
            message = dict(data["message"])
            if self._bar is None:
                self._bar = self._reporter().__enter__()
            self._bar.show(Message(message.pop("kind"), message))
        elif kind == "serving":
            self._line(f"serving models at {', '.join(data['urls'])}")
        elif kind == "recordings":
            self._line(f"recordings: {data['ready']} ready, {data['waiting']} waiting, {data['rejected']} rejected")
        elif kind == "next":
            waited_for, self._waited_for = self._waited_for, _FIGURE.sub("", data["reason"])
            if waited_for != self._waited_for:  # what the load is, or how long it will be, changes all day
                self._line(f"next: {data['reason']}")
        elif kind == "warning":
            self._line(f"warning: {data['message']}")
        elif kind == "run":
            self._end_bar(failed=data["state"] in {"failed", "interrupted"})
            said = {"published": f"published as {data['release']}", "kept": "kept, not published"}
            reason = f": {data['reason']}" if data["reason"] else ""
            self._line(f"{data['id']} {said.get(data['state'], data['state'])}{reason}")

    def _end_bar(self, failed: bool) -> None:
        if self._bar is not None:
            self._bar.end(failed=failed)
            self._bar = None

    def _reporter(self) -> LineReporter:
        if not self._terminal:
            return LineReporter()
        from daemon.terminal import progress_reporter

        return progress_reporter()

    def _line(self, text: str) -> None:
        at = time.strftime("%H:%M:%S")
        if not self._terminal:
            print(at, printable(text), file=sys.stderr, flush=True)
            return
        from daemon.terminal import err, plain

        err.print(f"[dim]{at}[/] {plain(text)}")
