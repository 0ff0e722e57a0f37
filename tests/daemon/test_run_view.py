"""What `idiolect run` prints for the daemon's events."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from daemon import lines, run_view, terminal
from daemon.paths import Paths
from daemon.run_view import RunView

UNFINISHED = re.compile(r"train not finished 1/4 steps|train .*1/4 steps .*not finished")


class Screen(io.StringIO):
    """Where the daemon's lines go: a terminal or a pipe."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen(request.param)
    console = Console(file=screen, width=200, highlight=False, force_terminal=request.param, no_color=True)
    monkeypatch.setattr(terminal, "err", console)
    for module in (lines, run_view):
        monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=screen))
    return screen


def job(kind: str, **data: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"run": "run-0001", "message": {"kind": kind, **data}}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("published", "run-0001 published as r-0001"),
        ("kept", "run-0001 kept, not published: no better"),
        ("failed", "run-0001 failed: no better"),
    ],
)
def test_a_run_from_its_first_stage_to_its_end(printed: Screen, tmp_path: Path, state: str, said: str) -> None:
    with RunView(Paths.at(tmp_path)) as view:
        view.show("serving", {"urls": ["http://127.0.0.1:1", "http://[::1]:1"]})
        view.show("recordings", {"ready": 3, "waiting": 1, "rejected": 0})
        view.show("next", {"reason": "training [tiny]"})
        view.show("job", job("stage", name="train"))
        view.show("job", job("progress", done=1, total=4, unit="steps"))
        view.show("warning", {"message": "a\nb"})
        reason = "" if state == "published" else "no better"
        view.show("run", {"id": "run-0001", "state": state, "reason": reason, "release": "r-0001"})
    lines = printed.getvalue().splitlines()
    assert str(tmp_path) in lines[0]
    for text in ("http://127.0.0.1:1, http://[::1]:1", "3 ready, 1 waiting, 0 rejected", "next: training [tiny]", said):
        assert any(text in line for line in lines), text
    assert any(line.endswith("warning: a�b") for line in lines)
    assert any(UNFINISHED.search(line) for line in lines) == (state == "failed")


def test_a_busy_machine_is_no_news_every_half_minute(printed: Screen, tmp_path: Path) -> None:
    with RunView(Paths.at(tmp_path)) as view:
        for load in (98, 97, 51):
            view.show("next", {"reason": f"nano; other programs use {load} % of the processor, the limit is 50 %"})
        view.show("next", {"reason": "training nano"})
        view.show("next", {"reason": "nano; other programs use 60 % of the processor, the limit is 50 %"})
    said = [line.partition("next: ")[2] for line in printed.getvalue().splitlines() if "next: " in line]
    assert [text.split(";")[0] for text in said] == ["nano", "training nano", "nano"]
    assert "98 %" in said[0]


def test_a_daemon_that_ends_in_the_middle_leaves_no_full_bar(printed: Screen, tmp_path: Path) -> None:
    with RunView(Paths.at(tmp_path)) as view:
        view.show("job", job("stage", name="train"))
        view.show("job", job("progress", done=1, total=4, unit="steps"))
    assert UNFINISHED.search(printed.getvalue())
