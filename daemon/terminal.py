"""What a person sees: progress bars, tables, errors. Nothing here decides anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from idiolect.child import Message, Reporter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from idiolect.errors import IdiolectError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: IdiolectError) -> None:
    """What is wrong in red, and what to do next."""
    err.print(f"[bold red]error:[/] {plain(error.message, lines=True)}")
    if error.hint:
        err.print(f"  → {plain(error.hint, lines=True)}")


def print_json(value: Any) -> None:  # noqa: ANN401
    """One JSON document on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def percent(rate: float | None) -> str:
    """A rate as people read it."""
    return "–" if rate is None else f"{rate:.1%}"


def megabytes(size_bytes: float) -> str:
    """A size in millions of bytes."""
    return f"{size_bytes / 1e6:.1f} MB"


def estimate_line(estimate: Mapping[str, Any]) -> str:
    """What a training will take: `estimated_bytes` of memory, and `estimated_s` by its first steps' pace."""
    said = []
    if "estimated_s" in estimate:
        said.append(f"about {max(1, round(estimate['estimated_s'] / 60))} minutes")
    if "estimated_bytes" in estimate:
        said.append(f"about {estimate['estimated_bytes'] / 1e9:.1f} GB of memory")
    return f"training takes {' and '.join(said)}"


def plain(text: str, *, lines: bool = False) -> str:
    """Text from outside, shown as it is: no markup, no control characters that could move the cursor or, unless
    `lines` are allowed, end a line."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() or (lines and char == "\n") else "�" for char in text))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; columns of numbers, by their first row, align right."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 3, 0, 0)
    )
    for index, column in enumerate(columns):
        numeric = bool(rows) and rows[0][index][:1] in "–0123456789+-"
        made.add_column(plain(column), justify="right" if numeric else "left", header_style="dim", overflow="fold")
    for row in rows:
        made.add_row(*map(plain, row))
    out.print(made)


class ProgressReporter(Reporter):
    """Shows a job's messages as a rich progress bar with the time left; use it as a context manager.

    Where nobody looks at a terminal each stage is a line when it begins and one when it ends.
    """

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]:>16}"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=err,
            disable=not err.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        self._progress.start()
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self.end(failed=kind is not None)

    def send(self, kind: str, **data: Any) -> None:  # noqa: ANN401
        self.show(Message(kind, data))

    def show(self, message: Message) -> None:
        """One message of a job, from this process or another."""
        data = message.data
        if message.kind == "stage":
            self._end_stage()
            name = plain(str(data["name"]))
            self._task = self._progress.add_task(name, total=None, count="", unit="", note="")
            if not err.is_terminal:
                self.note(f"{name} …")
        elif message.kind == "progress" and self._task is not None:
            done, total, unit = data["done"], data["total"], data["unit"]
            self._progress.update(self._task, completed=done, total=total, count=_count(done, total, unit), unit=unit)
        elif message.kind == "metric" and self._task is not None:
            note = ", ".join(f"{key} {value:.3g}" for key, value in data.items() if key in {"loss", "select_errors"})
            self._progress.update(self._task, note=note)
            if data.keys() & {"estimated_s", "estimated_bytes"}:
                self.note(estimate_line(data))
            if "continued_at_step" in data:
                self.note(f"goes on at step {data['continued_at_step']}, where it was ended")
        elif message.kind == "warning":
            self.note(f"[yellow]warning:[/] {plain(str(data['message']))}")

    def note(self, line: str) -> None:
        """A line above the bar."""
        err.print(line, soft_wrap=not err.is_terminal)

    def end(self, *, failed: bool = False) -> None:
        """The work has ended. The bar of a stage that `failed` stays where it was."""
        self._end_stage(failed)
        self._progress.stop()

    def _end_stage(self, failed: bool = False) -> None:
        if self._task is None:
            return
        task = self._progress.tasks[self._progress.task_ids.index(self._task)]
        if failed:
            self._progress.update(self._task, total=task.total or 1, note="[red]not finished[/]")
        else:
            total = task.total or task.completed or 1
            # A view that looks now and then has not seen the last message of a stage.
            count = _count(total, total, task.fields["unit"]) if task.fields["count"] else ""
            self._progress.update(self._task, completed=total, total=total, count=count)
        self._progress.stop_task(self._task)
        self._task = None
        if not err.is_terminal:
            self.note(f"{task.description} {'not finished' if failed else 'done'} {task.fields['count']}".rstrip())


def show_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Evaluation.summary() of several models as one table."""
    rows = [
        [
            e["model"],
            e["runtime"],
            percent(e["wer"]),
            percent(e["cer"]),
            percent(e["wer_english"]),
            percent(e["loops"]),
            f"{1 / e['rtf']:.0f} ×" if e["rtf"] else "–",
            megabytes(e["peak_memory_bytes"]),
        ]
        for e in evaluations
    ]
    first = evaluations[0]
    title = f"{first['clips']} clips, {first['words']} words, {first['audio_s'] / 60:.1f} minutes"
    table(title, ["model", "runtime", "WER", "CER", "WER (English)", "loops", "speed", "memory"], rows)


def _count(done: float, total: float, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:.1f}/{megabytes(total)}"
    return f"{done:g}/{total:g} {unit}"
