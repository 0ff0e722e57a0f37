import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from daemon.intake.reader import Reader
from daemon.intake.reading import Reading, Request
from idiolect.errors import JobError
from tests.training.samples import sound, write_wav

FAKE = """
import json, os, signal, sys, time
print({ready!r}, flush=True)
for line in sys.stdin:
    name = os.path.basename(json.loads(line)["path"])
    if "crash" in name: os.kill(os.getpid(), signal.SIGSEGV)
    if "leave" in name: sys.exit(7)
    if "half" in name: print('{{"state":', end="", flush=True); os.kill(os.getpid(), signal.SIGXCPU)
    if "kill" in name: os.kill(os.getpid(), getattr(signal, name[5:]))
    if "hang" in name: time.sleep(60)
    print(json.dumps({{"state": "waiting", "reason": str(os.getpid())}}), flush=True)
"""


def fake(ready: str = "ready") -> tuple[str, ...]:
    """A worker that does to itself what the names ask for."""
    return (sys.executable, "-c", FAKE.format(ready=ready))


async def hear(reader: Reader, path: Path | str) -> Reading:
    return await reader.read(Request(path=Path(path), folder=Path(path).parent))


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    reader = Reader(fake(), timeout_s=5)
    yield reader
    await reader.close()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
async def test_a_worker_that_was_ended_says_nothing_of_the_recording(reader: Reader, name: str) -> None:
    said = f"reading it was interrupted ({name}); tried again later"
    assert await hear(reader, f"/kill {name}") == Reading(state="waiting", reason=said, retry=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash.wav", "the decoder crashed on it (SIGSEGV); save it again in another format"),
        ("leave.wav", "the decoder gave up on it (exit status 7); save it again in another format"),
        ("half.wav", "reading it takes more processor time than any recording should"),
    ],
)
async def test_a_worker_that_dies_costs_one_recording(reader: Reader, name: str, reason: str) -> None:
    before = await hear(reader, "/a.wav")
    assert await hear(reader, f"/{name}") == Reading(state="rejected", reason=reason)
    after = await hear(reader, "/b.wav")

    assert before.state == after.state == "waiting"
    assert before.reason != after.reason


@pytest.mark.slow
async def test_one_worker_serves_many_and_leaves_when_idle() -> None:
    reader = Reader(fake(), idle_s=0.2)

    first, second = await hear(reader, "/a.wav"), await hear(reader, "/b.wav")
    assert first.reason == second.reason
    assert reader.running
    await asyncio.sleep(0.6)
    assert not reader.running
    assert not psutil.pid_exists(int(first.reason))
    assert (await hear(reader, "/c.wav")).reason != first.reason
    await reader.close()
    await reader.close()


@pytest.mark.slow
async def test_a_recording_that_takes_for_ever() -> None:
    reader = Reader(fake(), timeout_s=1.0)

    reading = await hear(reader, "/hang.wav")
    assert (reading.state, reading.reason) == ("rejected", "could not be read within 1 s")
    assert (await hear(reader, "/b.wav")).state == "waiting"
    await reader.close()


async def test_cancelling_leaves_no_answer_for_the_next(reader: Reader) -> None:
    task = asyncio.create_task(hear(reader, "/hang.wav"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not reader.running
    assert (await hear(reader, "/b.wav")).state == "waiting"


@pytest.mark.parametrize("argv", [(sys.executable, "-c", "raise SystemExit(3)"), fake("hello")])
async def test_a_worker_that_does_not_start_is_not_the_recordings_fault(argv: tuple[str, ...]) -> None:
    reader = Reader(argv, timeout_s=5)

    with pytest.raises(JobError, match="does not start"):
        await hear(reader, "/a.wav")
    assert not reader.running


@pytest.mark.slow
async def test_the_real_worker_and_its_limits(tmp_path: Path) -> None:
    reader = Reader()
    name = "line\nbreak \"quote\" 'שלום' 🎤.wav"
    write_wav(tmp_path / name, sound(1))
    (tmp_path / name).with_suffix(".txt").write_text("שלום")

    reading = await hear(reader, tmp_path / name)

    assert (reading.state, reading.clips[0].text) == ("ready", "שלום")
    child = next(p for p in psutil.Process().children() if "daemon.intake.worker" in p.cmdline())
    assert child.nice() >= min(19, os.nice(0) + 10)
    assert child.rlimit(psutil.RLIMIT_FSIZE)[0] == 0
    assert child.rlimit(psutil.RLIMIT_CORE)[0] == 0
    assert child.rlimit(psutil.RLIMIT_AS)[0] == 2 << 30
    assert child.rlimit(psutil.RLIMIT_CPU)[0] < 200
    assert child.memory_info().rss < 150 << 20
    await reader.close()
    assert not child.is_running()


async def test_the_worker_ends_with_its_parent() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.intake.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.close()

    assert await asyncio.wait_for(process.wait(), 120) == 0
