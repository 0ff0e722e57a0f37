from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from idiolect.child import MAX_LINE_CHARS, CallbackReporter, Message, Reporter, error_from, parse
from idiolect.errors import AudioError, IdiolectError, JobError, JobStopped, MissingExtra

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a real child whose work is the body of a function of `reporter`."""
    children: list[subprocess.Popen[str]] = []

    def start(body: str) -> subprocess.Popen[str]:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        code = (
            "import os, sys, time\n"
            "from idiolect.child import run_child\n"
            "from idiolect.errors import *\n"
            f"def work(reporter):\n{lines}"
            "sys.exit(run_child(work))\n"
        )
        pipe = subprocess.PIPE
        command = [sys.executable, "-W", "error", "-c", code]
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            with contextlib.suppress(BrokenPipeError):
                opened(stream).close()


def opened(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def messages(child: subprocess.Popen[str]) -> list[Message]:
    """All messages until the child ends; every line is one."""
    parsed = [parse(line) for line in opened(child.stdout)]
    child.wait(10)
    return [message for message in parsed if message] if None not in parsed else []


def test_a_child_that_does_its_work(start: Start) -> None:
    child = start(
        "reporter.stage('train')\n"
        "reporter.progress(1, 4, 'steps')\n"
        "reporter.metric(loss=0.5, set='select')\n"
        "reporter.warning('so-so: ü')\n"
        "reporter.check_stop()\n"
        "return {'result': 'path'}"
    )
    hello, *rest = messages(child)
    assert (hello.kind, hello.data) == ("hello", {"pid": child.pid})
    assert rest == [
        Message("stage", {"name": "train"}),
        Message("progress", {"done": 1, "total": 4, "unit": "steps"}),
        Message("metric", {"loss": 0.5, "set": "select"}),
        Message("warning", {"message": "so-so: ü"}),
        Message("done", {"result": "path"}),
    ]
    assert child.returncode == 0  # although stdin is still open and listened to
    assert opened(child.stderr).read() == ""


def test_what_libraries_print_goes_to_stderr(start: Start) -> None:
    child = start("print('python')\nsys.stdout.flush()\nos.write(1, b'native\\n')\nos.system('echo shell')\nreturn {}")
    assert [message.kind for message in messages(child)] == ["hello", "done"]
    assert opened(child.stderr).read().split() == ["python", "native", "shell"]


WAIT = "reporter.stage('wait')\nreporter.stop.wait(10)\nreporter.check_stop()\nreturn {}"


@pytest.mark.parametrize("how", ["line", "end", "noise-then-line"])
def test_asked_to_stop(start: Start, how: str) -> None:
    child = start(WAIT)
    assert "hello" in opened(child.stdout).readline()
    assert "wait" in opened(child.stdout).readline()
    stdin = opened(child.stdin)
    if how == "end":
        stdin.close()
    else:
        stdin.write("stop\n" if how == "line" else "\nstopp\n stop \n")
        stdin.flush()
    (error,) = messages(child)
    raised = error_from(error)
    assert isinstance(raised, JobStopped)
    assert "goes on where it was" in raised.hint
    assert child.returncode == JobStopped.exit_code


def test_a_parent_that_no_longer_reads(start: Start) -> None:
    child = start("while not reporter.stop.is_set():\n    reporter.progress(1, 2, 'x' * 1000)\nreturn {}")
    opened(child.stdout).readline()
    opened(child.stdout).close()
    assert child.wait(10) == 0


@pytest.mark.parametrize(
    ("body", "kind", "message", "hint", "exit_status"),
    [
        ("raise AudioError('a.wav is empty', 'record again')", AudioError, "a.wav is empty", "record again", 1),
        ("raise MissingExtra('train', 'torch')", MissingExtra, "package torch", "idiolect[train]", 3),
        ("raise KeyError('x')", JobError, "KeyError: 'x'", "see the job's log", 1),
        ("bytearray(1 << 60)", JobError, "out of memory", "a smaller tier", 1),
        ("os.kill(os.getpid(), 2)\ntime.sleep(10)", JobStopped, "stopped", "", 130),
    ],
)
def test_failures(
    start: Start, body: str, kind: type[IdiolectError], message: str, hint: str, exit_status: int
) -> None:
    child = start(body)
    _, error = messages(child)
    assert error.kind == "error"
    raised = error_from(error)
    assert type(raised) is kind
    assert message in raised.message
    assert hint in raised.hint
    assert child.returncode == exit_status
    assert ("Traceback" in opened(child.stderr).read()) == ("KeyError" in body)


def test_a_killed_child_is_the_end_of_the_messages(start: Start) -> None:
    child = start(WAIT)
    opened(child.stdout).readline()
    child.send_signal(signal.SIGKILL)
    assert messages(child)[-1:] in ([], [Message("stage", {"name": "wait"})])
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "line",
    [
        *("", "\n", "x", "1", "null", "[]", "{}", '{"kind": "other"}', '{"kind": []}', '{"kind": "done"', "{" * 5000),
        *("[" * 100_000, '{"kind": "done", "x": "' + "y" * MAX_LINE_CHARS + '"}'),
    ],
    ids=range(13),
)
def test_what_is_not_a_message(line: str) -> None:
    assert parse(line) is None


def test_an_error_of_another_version() -> None:
    for name in ("NewError", "Exception", "annotations", "require", ""):
        error = error_from(Message("error", {"error": name, "message": "m"}))
        assert (type(error), error.message, error.hint) == (JobError, "m", "")
    assert error_from(Message("error")).message == "failed"


def test_reporters_in_the_same_process() -> None:
    Reporter().progress(1, 2, "clips")
    seen: list[Message] = []
    reporter = CallbackReporter(seen.append)
    reporter.stage("decode")
    assert seen == [Message("stage", {"name": "decode"})]
    reporter.check_stop()
    reporter.stop.set()
    with pytest.raises(JobStopped):
        reporter.check_stop()
