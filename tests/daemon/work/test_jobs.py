"""A job as a child process: small real children speak the protocol."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from daemon.lines import estimate_line
from daemon.work import jobs
from daemon.work.jobs import NICENESS, Job, wait_until_free
from idiolect.child import Message
from idiolect.errors import CheckpointError, JobError, JobStopped

HEAD = """
import os, signal, subprocess, sys, time
from idiolect.child import run_child
from idiolect.errors import *
"""


def job(tmp_path: Path, work: str, **options: object) -> Job:
    """A job whose child runs the body `work` of a function of a reporter `r`."""
    body = "\n".join("    " + line for line in work.strip().splitlines())
    code = f"{HEAD}\ndef work(r):\n{body}\n    return {{'wer': 0.25}}\nsys.exit(run_child(work))"
    run_dir = tmp_path / "run-0001"
    run_dir.mkdir()
    return Job(run_dir, argv=(sys.executable, "-c", code), **options)  # type: ignore[arg-type]


async def test_a_job_answers_with_what_it_found(tmp_path: Path) -> None:
    seen: list[Message] = []
    made = job(
        tmp_path,
        """
r.stage('train'); r.progress(3, 12, 'steps'); r.warning('little speech'); print('noise of a library', flush=True)
print('trouble', file=sys.stderr)
""",
        on_message=seen.append,
    )
    assert await made.run() == {"wer": 0.25}
    assert [message.kind for message in seen] == ["hello", "stage", "progress", "warning", "done"]
    status = made.describe()
    assert (status["run"], status["stage"], status["done"], status["total"]) == ("run-0001", "train", 3, 12)
    assert status["warnings"] == ["little speech"]
    assert status["pid"] == seen[0].data["pid"]
    log = made.run_dir / "job.log"
    assert log.read_text() == "noise of a library\ntrouble\n"
    assert log.stat().st_mode & 0o777 == 0o600


async def test_time_left_follows_the_pace_of_the_stage(tmp_path: Path) -> None:
    made = job(
        tmp_path, "r.stage('train'); r.progress(100, 104, 'steps'); time.sleep(0.3); r.progress(101, 104, 'steps')"
    )
    assert made.eta_s is None
    await made.run()
    eta_s = made.eta_s
    assert eta_s is not None
    assert eta_s >= 0.9  # the hundred steps done before it was continued do not count


async def test_the_estimate_of_a_training_is_kept(tmp_path: Path) -> None:
    made = job(tmp_path, "r.metric(estimated_bytes=2e9, steps=300); r.metric(loss=1.5); r.metric(estimated_s=240)")
    await made.run()
    estimate = made.describe()["estimate"]
    assert estimate == {"estimated_bytes": 2e9, "estimated_s": 240.0}
    assert estimate_line(estimate) == "training takes about 4 minutes and about 2.0 GB of memory"


async def test_a_reported_error_arrives_as_its_class(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer\nfetch it again"):
        await job(tmp_path, "raise CheckpointError('no tokenizer', 'fetch it again')").run()


async def test_a_bug_is_a_job_error(tmp_path: Path) -> None:
    made = job(tmp_path, "1 / 0")
    with pytest.raises(JobError, match="ZeroDivisionError"):
        await made.run()
    assert "Traceback" in (made.run_dir / "job.log").read_text()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL \(often: too little memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV\nits log: "),
        ("os._exit(7)", "ended with status 7 and said nothing"),
        ("os._exit(0)", "ended with status 0 and said nothing"),
    ],
)
async def test_a_silent_end_says_how(tmp_path: Path, work: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        await job(tmp_path, work).run()


async def test_the_present_folder_lends_the_pipeline_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "daemon").mkdir()
    (tmp_path / "daemon" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=r"FileNotFoundError.*run\.json"):
        await Job(tmp_path).run()


async def test_stop_lets_it_save(tmp_path: Path) -> None:
    made = job(tmp_path, "r.stage('train')\nwhile True:\n    r.check_stop(); time.sleep(0.02)")
    running = asyncio.create_task(made.run())
    await _until(lambda: made.stage == "train")
    await made.stop()
    with pytest.raises(JobStopped):
        await running


async def test_a_job_that_does_not_stop_is_ended_with_its_children(tmp_path: Path) -> None:
    made = job(
        tmp_path,
        """
child = subprocess.Popen(['sleep', '60'])
r.stage(str(child.pid))
time.sleep(60)
""",
        stop_wait_s=0.2,
    )
    running = asyncio.create_task(made.run())
    await _until(lambda: made.stage.isdigit())
    await made.stop()
    with pytest.raises(JobError, match="SIGTERM"):
        await running
    await _until(lambda: not _alive(int(made.stage)))


async def test_the_end_of_the_parents_task_leaves_no_trainer(tmp_path: Path) -> None:
    made = job(tmp_path, "r.stage('train'); time.sleep(60)")
    running = asyncio.create_task(made.run())
    await _until(lambda: made.stage == "train")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert made.pid is not None
    assert not _alive(made.pid)


async def test_a_job_yields_to_the_user_and_has_its_own_group(tmp_path: Path) -> None:
    made = job(tmp_path, "r.stage('train'); time.sleep(60)", stop_wait_s=0.1)
    running = asyncio.create_task(made.run())
    await _until(lambda: made.stage == "train")
    assert made.pid is not None
    assert psutil.Process(made.pid).nice() == max(NICENESS, os.nice(0))
    assert os.getpgid(made.pid) == made.pid != os.getpgrp()
    made.terminate()
    with pytest.raises(JobError):
        await running


async def test_an_endless_line_does_not_end_a_job(tmp_path: Path) -> None:
    assert await job(tmp_path, "r._out.write('x' * 9_000_000 + '\\n'); r.stage('after')").run() == {"wer": 0.25}


async def test_a_folder_that_an_old_job_holds_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import filelock, sys\n"
        f"with filelock.FileLock({str(tmp_path / 'lock')!r}):\n    print('held', flush=True); sys.stdin.read()"
    )
    old = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert old.stdout is not None
    assert old.stdin is not None
    await old.stdout.readline()
    waiting = asyncio.create_task(wait_until_free(tmp_path, every_s=0.02))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    old.stdin.close()
    await asyncio.wait_for(waiting, 120)
    await old.wait()
    await wait_until_free(tmp_path / "gone")


async def _until(condition: object) -> None:
    async with asyncio.timeout(120):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


async def test_a_job_that_nothing_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that reads from a network folder that answers no more."""
    made = job(tmp_path, "r.stage('train')\ntime.sleep(600)", stop_wait_s=0.1)
    running = asyncio.create_task(made.run())
    while made.stage != "train":
        await asyncio.sleep(0.02)
    assert jobs.STOP_WAIT_S + jobs.TERMINATE_WAIT_S + jobs.KILLED_WAIT_S < 5  # all that a stop may take
    with monkeypatch.context() as unkillable:
        unkillable.setattr(made, "_signal", lambda number: None)
        await asyncio.wait_for(made.stop(), 60)
        with pytest.raises(JobError, match=f"nothing ends the job, pid {made.pid}"):
            await asyncio.wait_for(running, 60)
    assert made.pid is not None
    assert psutil.pid_exists(made.pid)
    made.terminate()
    assert made._process is not None
    await made._process.wait()
