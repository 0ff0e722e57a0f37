"""What a person sees: text from outside, tables, progress with a terminal and without."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from daemon import lines, terminal
from daemon.terminal import plain, progress_reporter, table
from idiolect.errors import UsageError

Screen = Callable[[], str]


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """What was printed so far, to a terminal or to a pipe."""
    file = io.StringIO()
    console = Console(file=file, width=120, highlight=False, force_terminal=request.param, no_color=True)
    monkeypatch.setattr(terminal, "out", console)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(lines, "sys", SimpleNamespace(stderr=file))
    return file.getvalue


def test_text_from_outside_ends_no_line_and_moves_no_cursor() -> None:
    assert plain("two\nlines\x1b[2J\r\x07 [bold]x[/] שבת") == "two�lines�[2J�� \\[bold]x\\[/] שבת"
    assert plain("two\nlines\x1b", lines=True) == "two\nlines�"


def test_a_table_keeps_a_row_a_row(screen: Screen) -> None:
    table("Recordings", ["name", "words"], [["a\nb.wav", "3"], ["[red]c.wav", "12"]])
    lines = [line.rstrip() for line in screen().splitlines()]
    assert any("a�b.wav" in line and line.endswith("3") for line in lines)
    assert any("[red]c.wav" in line and line.endswith("12") for line in lines)


def test_an_error_shows_its_hint(screen: Screen) -> None:
    terminal.show_error(UsageError("it is [wrong]", "do this"))
    assert "it is [wrong]" in screen()
    assert "→ do this" in screen()


def test_a_stage_that_ends_well_is_full(screen: Screen) -> None:
    with progress_reporter() as reporter:
        reporter.stage("read")
        reporter.progress(2, 4, "clips")
        reporter.stage("train")
        reporter.metric(continued_at_step=2)
        reporter.progress(3, 3, "steps")
        reporter.warning("too [loud]")
    lines = screen().splitlines()
    assert "not finished" not in screen()
    assert any("goes on at step 2" in line for line in lines)
    assert any("warning: too [loud]" in line for line in lines)
    assert any("train" in line and "3/3 steps" in line for line in lines)


def test_a_stage_that_fails_does_not_look_finished(screen: Screen) -> None:
    def work() -> None:
        with progress_reporter() as reporter:
            reporter.stage("train")
            reporter.progress(1, 4, "steps")
            raise UsageError("no")

    with pytest.raises(UsageError):
        work()
    last = next(line for line in reversed(screen().splitlines()) if "train" in line)
    assert "1/4 steps" in last
    assert "not finished" in last
