"""What a person sees: progress bars, tables, errors. Nothing here decides anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from daemon.lines import LineReporter, count, megabytes, printable

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


def plain(text: str, *, lines: bool = False) -> str:
    """Text from outside, shown as it is: `printable`, and no markup."""
    from rich.markup import escape

    return escape(printable(text, lines=lines))


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


def progress_reporter() -> LineReporter:
    """Shows a job's messages the way they can be seen where this runs."""
    return BarReporter() if err.is_terminal else LineReporter()


class BarReporter(LineReporter):
    """Shows a job's messages as a rich progress bar with the time left, for a terminal."""

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
        )

    def __enter__(self) -> BarReporter:
        self._progress.start()
        return self

    def note(self, line: str) -> None:
        """A line above the bar."""
        err.print(plain(line))

    def end(self, *, failed: bool = False) -> None:
        """The work has ended. The bar of a stage that `failed` stays where it was."""
        super().end(failed=failed)
        self._progress.stop()

    def _begin(self, stage: str) -> None:
        self._task: TaskID = self._progress.add_task(plain(stage), total=None, count="", note="")

    def _advance(self, done: float, total: float, unit: str) -> None:
        self._progress.update(self._task, completed=done, total=total, count=count(done, total, unit))

    def _measure(self, values: Mapping[str, Any]) -> None:
        note = ", ".join(f"{key} {value:.3g}" for key, value in values.items() if key in {"loss", "select_errors"})
        self._progress.update(self._task, note=note)

    def _warn(self, text: str) -> None:
        err.print(f"[yellow]warning:[/] {plain(text)}")

    def _finish(self, stage: str, count: str, failed: bool) -> None:
        task = self._progress.tasks[self._progress.task_ids.index(self._task)]
        if failed:
            self._progress.update(self._task, total=task.total or 1, note="[red]not finished[/]")
        else:
            total = task.total or task.completed or 1
            self._progress.update(self._task, completed=total, total=total, count=count)
        self._progress.stop_task(self._task)


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
