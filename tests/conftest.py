"""What several rooms' tests share: the nano model and the two demo voices that ship with the package."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from idiolect.child import collect_rarely
from training import base_models

LIMIT_MINUTES = float(os.environ.get("IDIOLECT_TEST_MINUTES", "inf"))
"""After so many no test is begun any more; each is told as skipped. For a machine that others slow down (.ci/run)."""
NOT_RUN = "NOT RUN"
_BEGUN_S = time.monotonic()
_not_run: list[str] = []
VOICES = Path(base_models.__file__).parent / "data" / "voices"


def pytest_configure() -> None:
    """No test is judged by its speed. Part the cores between the test processes: compute threads that wait for a busy
    core spin and burn another."""
    collect_rarely()
    # Under nohup, or started with &, the programs that tests start would hear no signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]  # fixtures here are read only or a folder
    settings.register_profile("idiolect", deadline=None, suppress_health_check=unhurried)
    settings.load_profile("idiolect")
    number, count = (
        os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:],
        int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)),
    )
    if count > 1 and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[int(number) :: count]
        if mine:
            os.sched_setaffinity(0, mine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole programs first: the longest tests must not be what is left to one process at the end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def pytest_runtest_setup() -> None:
    if time.monotonic() - _BEGUN_S > 60 * LIMIT_MINUTES:
        pytest.skip(f"{NOT_RUN}: the {LIMIT_MINUTES:.0f} minutes of this run were over")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and NOT_RUN in str(report.longrepr):
        _not_run.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that did not come to its end has not passed."""
    if _not_run:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def nano(cache: Path) -> Path:
    """The nano model's Hugging Face folder."""
    return base_models.resolve("nano", cache)


@pytest.fixture(scope="session")
def voices() -> Path:
    """Folder with `synthetic/` and `human/`: Ogg Opus clips and metadata.jsonl."""
    return VOICES
