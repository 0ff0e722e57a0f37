"""Progress where nobody looks at a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from daemon.lines import LineReporter, estimate_line, printable


def test_each_stage_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter() as reporter:
        for stage in ("read", "train\n"):
            reporter.stage(stage)
            for done in range(50):
                reporter.progress(done + 1, 50, "steps")
        reporter.warning("too [loud]\n")
    assert capsys.readouterr().err.splitlines() == [
        "read …",
        "read done 50/50 steps",
        "train� …",
        "warning: too [loud]�",
        "train� done 50/50 steps",
    ]


def test_a_stage_without_progress_is_done_too(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter() as reporter:
        reporter.stage("read")
        reporter.progress(1, 2, "clips")
        reporter.stage("check")
    assert capsys.readouterr().err.splitlines()[-1] == "check done"


def test_text_from_outside_ends_no_line() -> None:
    assert printable("two\nlines\x1b[2J שבת") == "two�lines�[2J שבת"
    assert printable("two\nlines\x1b", lines=True) == "two\nlines�"


def test_the_estimate() -> None:
    assert estimate_line({"estimated_s": 90.0, "estimated_bytes": 2.04e9}) == (
        "training takes about 90 s and about 2.0 GB of memory"
    )


def test_it_is_there_without_rich() -> None:
    code = "import daemon.run_view, daemon.lines, sys; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
