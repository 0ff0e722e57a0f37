"""`idiolect status`, `runs` and `coverage` for people."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from daemon import status_view, terminal
from daemon.coverage import Coverage, TermCoverage
from daemon.home import describe_run
from daemon.intake.reading import Reading
from daemon.intake.scan import Stamp
from daemon.paths import Paths
from daemon.rooms import Rooms
from daemon.status import offline_status
from daemon.status_view import SHOWN, show_coverage, show_one_run, show_runs, show_status
from daemon.work import runs
from daemon.work.spec import RESULT_FILE, load_spec
from idiolect.files import write_text
from tests.daemon import small_job
from tests.daemon.homes import CONFIG
from tests.daemon.work.test_runs import hear
from training.vocabulary import Term


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    console = Console(file=file, width=160, highlight=False)
    monkeypatch.setattr(terminal, "out", console)
    monkeypatch.setattr(status_view, "out", console)
    return file


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    """A home with two ready recordings, some that were refused, one run with a result."""
    paths = Paths.at(tmp_path)
    with Rooms.opened(paths, CONFIG) as rooms:
        hear(rooms, "one", "two")
        for number in range(SHOWN + 2):
            name = str(paths.recordings / f"bad\n[bold]{number:02d}.wav")
            rooms.library.record(name, Stamp(1, 1, ""), Reading(state="rejected", reason="it is\nempty"))
        run_id = runs.begin(rooms, "nano")
        result = small_job.result(rooms.run_dir(run_id), load_spec(rooms.run_dir(run_id)))
        write_text(rooms.run_dir(run_id) / RESULT_FILE, result.model_dump_json())
        rooms.library.update_run(run_id, state="kept", reason="no better", summary={"wer_stock": 0.5, "wer_tuned": 0.1})
    return paths


def test_status_is_a_line_a_fact_whatever_files_are_called(home: Paths, printed: io.StringIO) -> None:
    show_status(offline_status(home, CONFIG))
    lines = printed.getvalue().splitlines()
    refused = [line for line in lines if line.startswith("rejected")]
    assert len(refused) == SHOWN
    assert refused[0].endswith("bad [bold]00.wav: it is empty")
    assert any("and 2 more" in line for line in lines)
    assert any(line.startswith("recordings   2 ready, 10 rejected") for line in lines)
    assert any("no daemon is running" in line for line in lines)
    assert any("run-0001" in line and "50.0% → 10.0%" in line and "no better" in line for line in lines)


def test_a_job_shows_how_far_it_is(home: Paths, printed: io.StringIO) -> None:
    job: dict[str, Any] = {"run": "run-0002", "stage": "train", "done": 3.0, "total": 9.0, "unit": "steps"}
    status = offline_status(home, CONFIG)
    show_status({**status, "job": {**job, "eta_s": 12.0, "estimate": {"estimated_bytes": 2e9}}})
    assert "run-0002: train 3/9 steps, 12 s left" in printed.getvalue()
    assert "about 2.0 GB of memory" in printed.getvalue()


def test_one_run(home: Paths, printed: io.StringIO) -> None:
    show_one_run(describe_run(home, offline_status(home, CONFIG)["runs"], "1"))
    text = printed.getvalue()
    for said in ("run-0001, tier nano from nano: kept", "50.0% → 10.0%", "-40.0 points", "android-futo", "ggml q4_0"):
        assert said in text


def test_no_runs(printed: io.StringIO) -> None:
    show_runs([])
    assert printed.getvalue() == "no training yet\n"


def test_coverage(printed: io.StringIO) -> None:
    terms = (TermCoverage(Term("Kubernetes"), 0), TermCoverage(Term("mekolet", "Hebrew"), 9, 4, 1, 3))
    show_coverage(Coverage(terms, "run-0001", "tiny"))
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert ["Kubernetes", "terms", "0", "–", "–"] in lines
    assert ["mekolet", "Hebrew", "9", "1/4", "3/4"] in lines
    assert "measured on run-0001 (tiny)" in printed.getvalue()
