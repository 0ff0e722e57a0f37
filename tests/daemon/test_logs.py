"""The log: one line an event, private, and never more than three files."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from daemon import logs


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_no_name_of_a_file_breaks_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's cannot pass half a surrogate on
    path = tmp_path / "daemon.log"
    with logs.kept_in(path):
        for name in ("two\nlines.wav", "\x1b[2Jcleared.wav", "half \udcff.wav", "sep\u2028arated.wav", "שבת.wav"):
            logging.getLogger("idiolect").info("read %s", name)
    lines = _lines(path)
    assert len(lines) == 5
    assert [line.partition("read ")[2] for line in lines] == [
        r"two\nlines.wav",
        r"\x1b[2Jcleared.wav",
        r"half \udcff.wav",
        r"sep\u2028arated.wav",
        "שבת.wav",
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_traceback_is_indented(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    with logs.kept_in(path):
        try:
            raise OSError("no\nroom")
        except OSError:
            logging.getLogger("idiolect").exception("cannot go on")
    first, *rest = _lines(path)
    assert first.endswith("ERROR idiolect: cannot go on")
    assert rest
    assert all(line.startswith("  ") for line in rest)


@pytest.mark.slow
def test_it_never_takes_more_than_three_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    with logs.kept_in(path):
        for _ in range(5_000):
            logging.getLogger("idiolect").info("%s", "x" * 1000)
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + logs.BACKUPS
    assert sum(file.stat().st_size for file in files) <= (1 + logs.BACKUPS) * logs.MAX_BYTES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_loses_lines_and_says_nothing_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("idiolect")
    with logs.kept_in(tmp_path / "daemon.log"):
        log.info("before")
        (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, RotatingFileHandler))
        assert handler.stream is not None
        handler.stream.close()
        handler.stream = Path("/dev/full").open("w")  # noqa: SIM115
        log.info("lost")
        log.info("after")
    assert [line.rpartition(" ")[2] for line in _lines(tmp_path / "daemon.log")] == ["before", "after"]
    assert capsys.readouterr().err == ""
