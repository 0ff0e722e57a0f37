"""What is told of a new model, and to whom; the way from a publication to it is in test_run.py."""

from __future__ import annotations

import sys

import pytest

from daemon.config import Notify
from daemon.notices import Notice, desktop_command, tell


@pytest.mark.parametrize(
    ("notice", "text"),
    [
        (Notice("small", "r-0001", 0.124, 0.071), "Small: 12 % → 7 %"),
        (Notice("tiny", "r-0002", 0.124, 0.1204), "Tiny: 12.4 % → 12.0 %"),
        (Notice("a\nb", "r-0003", 0.5, 0.1), r"A\nb: 50 % → 10 %"),
    ],
)
def test_the_sentence(notice: Notice, text: str) -> None:
    assert str(notice) == text


@pytest.mark.parametrize("system", ["linux", "darwin", "win32", "freebsd14"])
def test_the_text_is_an_argument_of_its_own_never_part_of_a_script(system: str) -> None:
    text = '"; rm -rf ~; $(x) `y`'
    command = desktop_command(text, system, which=lambda tool: f"/usr/bin/{tool}")
    assert command[-1] == text
    assert not any(text in part for part in command[:-1])


def test_without_a_tool_there_is_no_notice() -> None:
    assert desktop_command("x", "linux", which=lambda tool: None) == []


async def test_a_command_that_fails_or_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.notices.COMMAND_WAIT_S", 0.3)
    notice = Notice("small", "r-0001", 0.12, 0.07)

    async def outcome(script: str) -> str:
        return await tell(notice, Notify(desktop=False, on_publish=(sys.executable, "-c", script)))

    monkeypatch.setattr("daemon.notices.COMMAND_WAIT_S", 30.0)
    assert await outcome("") == ""
    assert (await outcome("raise SystemExit(3)")).endswith("ended with status 3")
    check = (
        "import os, sys; sys.exit(sys.argv[1] != 'Small: 12 % → 7 %' or os.environ['IDIOLECT_WER_TUNED'] != '0.0700')"
    )
    assert await outcome(check) == ""
    monkeypatch.setattr("daemon.notices.COMMAND_WAIT_S", 0.3)
    assert "took longer" in await outcome("import time; time.sleep(60)")
