"""Rounds of benchmarks/kill.py: the real daemon, kill -9 at random moments; ten with nano, ten with a small job."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill import kill_rounds


@pytest.mark.torch
@pytest.mark.whispercpp
@pytest.mark.timeout(1500)
def test_nothing_is_lost_whenever_the_daemon_dies(tmp_path: Path) -> None:
    said: list[str] = []
    rounds = list(kill_rounds(tmp_path / "home", 10, seed=7, tell=said.append))
    assert rounds == [[]] * 10, said


@pytest.mark.timeout(600)
def test_nothing_is_lost_whenever_the_daemon_dies_with_a_small_job(tmp_path: Path) -> None:
    said: list[str] = []
    rounds = list(kill_rounds(tmp_path / "home", 10, seed=7, tell=said.append, small=True))
    assert rounds == [[]] * 10, said
