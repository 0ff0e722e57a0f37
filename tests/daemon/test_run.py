"""The resident process, alive: real folder, library, store, server, control socket; a small job instead of training."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config, example
from daemon.intake.library import Library
from daemon.paths import Paths
from daemon.run import Daemon
from daemon.sync.control import ask
from idiolect import fetch, signing
from idiolect.errors import AlreadyRunning, CheckpointError, ConfigError, DatasetError, NotRunning, UsageError
from idiolect.pairing import Pairings
from tests.daemon.homes import CONFIG, changed, job_log, living, pipeline, record, states, until

pytestmark = pytest.mark.slow

DAEMON = """
import json, sys
from pathlib import Path
from daemon.config import load
from daemon.paths import Paths
from daemon.run import Daemon
paths = Paths.at(Path(sys.argv[1]))
Daemon(paths, load(paths.config_file), pipeline=json.loads(sys.argv[2])).run()
"""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr("daemon.run.REST_S", 0.05)
    monkeypatch.setattr("daemon.intake.intake.POLL_S", 0.1)
    return Paths.at(tmp_path)


def daemon(paths: Paths, mode: str = "good", config: Config = CONFIG) -> Daemon:
    return Daemon(paths, config, pipeline=pipeline(mode))


@contextmanager
def process(paths: Paths, mode: str, config: Config = CONFIG) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in a process of its own, killed at the end if it still lives."""
    paths.make()
    paths.config_file.write_text(example(config))
    # The repository's root is the working directory of the test run, so the child finds the tests' small job, too.
    command = [sys.executable, "-c", DAEMON, str(paths.state.parent), json.dumps(pipeline(mode))]
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def _get(paths: Paths, path: str) -> Any:  # noqa: ANN401
    """As this user's own commands ask, which need no pairing."""
    connection = Pairings(paths.pairings).choose().connection()
    return json.loads(fetch.get(connection, path, limit_bytes=1 << 20, timeout_s=5).body)


def _states_in(paths: Paths) -> list[str]:
    library = Library(paths.library_db)
    try:
        return [run.state for run in library.runs()]
    finally:
        library.close()


async def test_recordings_become_a_release_that_is_served_and_more_of_them_the_next(paths: Paths) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    living_one = Daemon(paths, CONFIG, on_event=lambda *event: heard.append(event), pipeline=pipeline("good"))
    async with living(living_one):
        record(paths, 0, 1, 2)
        await until(lambda: states(living_one) == ["published"])
        status = living_one.status()
        assert status["next"]["action"] == "wait"
        envelope = json.dumps(await asyncio.to_thread(_get, paths, "/v1/manifest")).encode()
        manifest = json.loads(signing.payload_of(envelope, signing.MANIFEST_TYPE))
        record(paths, 3)
        await until(lambda: states(living_one) == ["published", "published"])
        assert [release["id"] for release in living_one.status()["releases"]] == ["r-0002", "r-0001"]
    assert manifest["channels"] == {"nano": {"stable": "r-0001"}}
    assert manifest["releases"][0]["artifacts"][0]["profile"] == "android-futo"
    assert status["recordings"]["ready"] == 3
    assert status["releases"][0]["id"] == status["runs"][0]["release"] == "r-0001"
    assert status["job"] is None
    kinds = [kind for kind, _ in heard]
    assert [kind for kind in kinds if kind in {"serving", "run"}] == ["serving", "run", "run"]
    jobs = [data for kind, data in heard if kind == "job"]
    assert {key: jobs[-2][key] for key in ("stage", "done", "total")} == {"stage": "train", "done": 1.0, "total": 4.0}
    assert not paths.control_socket.exists()
    assert "published" in paths.log_file.read_text()


async def test_a_model_that_is_not_better_is_kept_with_the_reason(paths: Paths) -> None:
    async with living(daemon(paths, "worse")) as one:
        record(paths, 0, 1)
        await until(lambda: states(one) == ["kept"])
        status = one.status()
    assert status["runs"][0]["reason"]
    assert status["runs"][0]["summary"]["wer_tuned"] == 0.6
    assert status["releases"] == []


async def test_a_failed_job_is_reported_and_tried_again_only_when_asked(paths: Paths) -> None:
    async with living(daemon(paths, "fail")) as one:
        record(paths, 0)
        await until(lambda: states(one) == ["failed"])
        await asyncio.sleep(0.5)
        status = one.status()
        assert len(status["runs"]) == 1
        assert status["runs"][0]["reason"] == "the disk is full — make room"
        assert "the disk is full — make room" in status["next"]["reason"]
        answer = await asyncio.to_thread(ask, paths, "train")
        assert answer == {"tiers": ["nano"], "after": None}
        await until(lambda: states(one) == ["failed", "failed"])


async def test_a_job_without_a_result_failed_also_where_nothing_is_served(paths: Paths) -> None:
    async with living(daemon(paths, "empty", changed(server={"enabled": False}))) as one:
        record(paths, 0)
        await until(lambda: states(one) == ["failed"])
        assert "left no result.json" in one.status()["runs"][0]["reason"]
        assert one.status()["server"] == {"urls": []}


async def test_commands_reach_it(paths: Paths) -> None:
    config = changed(recordings={"settle_s": 0.0}, training={"first_run_minutes": 60.0})
    async with living(daemon(paths, config=config)):
        with pytest.raises(DatasetError, match="no recording"):
            await asyncio.to_thread(ask, paths, "train")
        with pytest.raises(UsageError, match=r"tier 'tiny' is not in \[training\] tiers"):
            await asyncio.to_thread(ask, paths, "train", tier="tiny")
        record(paths, 0)
        await asyncio.to_thread(ask, paths, "rescan")
        status = await asyncio.to_thread(ask, paths, "status")
        assert status["recordings"]["ready"] == 1
        assert "of 60.0 minutes of speech" in status["next"]["reason"]
        await asyncio.to_thread(ask, paths, "stop")
        await until(lambda: not paths.control_socket.exists())


async def test_weights_that_are_not_here_are_asked_for_never_fetched(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(paths.state / "no-such-cache"))
    async with living(daemon(paths, config=changed(training={"tiers": ("tiny",)}))) as one:
        assert "idiolect models fetch tiny" in one.status()["next"]["reason"]
        record(paths, 0)
        await until(lambda: "not on this machine" in one.status()["next"]["reason"])
        with pytest.raises(CheckpointError, match="idiolect models fetch tiny"):
            await asyncio.to_thread(ask, paths, "train")
        assert states(one) == []


async def test_a_missing_folder_is_waited_for(paths: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    async with living(daemon(paths, config=changed(recordings={"folders": (folder,)}))) as one:
        await until(lambda: any(str(folder) in warning for warning in one.status()["warnings"]))
        assert not folder.exists()
        record(Paths.at(tmp_path / "elsewhere"), 0)
        (tmp_path / "elsewhere" / "recordings").rename(folder)
        await until(lambda: states(one) == ["published"])
        assert not any(str(folder) in warning for warning in one.status()["warnings"])


async def test_a_port_in_use_is_said_and_leaves_the_home_free(paths: Paths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .* in use"):
            async with living(daemon(paths, config=changed(server={"port": port}))):
                pass
    async with living(daemon(paths)) as one:
        assert one.status()["server"]["urls"]


async def test_a_state_folder_that_cannot_be_written_does_not_end_the_service(paths: Paths) -> None:
    async with living(daemon(paths)) as one:
        paths.runs.rmdir()
        paths.runs.touch()  # no folder for a run can be made
        record(paths, 0)
        await until(lambda: any("cannot be written" in warning for warning in one.status()["warnings"]))
        hello = await asyncio.to_thread(_get, paths, "/v1/hello")
        assert hello["id"]


async def test_it_can_be_stopped_while_it_announces_itself(paths: Paths) -> None:
    async with living(daemon(paths, config=changed(server={"discovery": True}))):
        await asyncio.sleep(0.2)


async def test_a_second_one_in_the_same_home_is_refused_with_the_pid(paths: Paths) -> None:
    async with living(daemon(paths)):
        with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}\b"):
            await daemon(paths).serve()
        assert (await asyncio.to_thread(ask, paths, "status"))["pid"] == os.getpid()


async def test_stopped_by_a_signal_it_saves_the_run_and_goes_on_at_the_next_start(paths: Paths) -> None:
    record(paths, 0, 1)
    with process(paths, "slow") as first:
        await until(lambda: len(job_log(paths)) == 1)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait, 60) == 0
    assert _states_in(paths) == ["interrupted"]
    async with living(daemon(paths, "slow")) as second:
        await until(lambda: states(second) == ["published"])
    assert [line.split()[0] for line in job_log(paths)] == ["start", "end", "start", "end"]


async def test_after_kill_9_there_are_never_two_jobs(paths: Paths) -> None:
    record(paths, 0, 1)
    with process(paths, "stuck") as first:
        await until(lambda: len(job_log(paths)) == 1)
        first.kill()
        first.wait()
    async with living(daemon(paths, "stuck")) as second:
        assert states(second) == ["interrupted"]
        assert second.status()["job"] is None
        await until(lambda: states(second) == ["published"])
    lines = [line.split() for line in job_log(paths)]
    assert [what for what, _ in lines] == ["start", "end", "start", "end"]
    assert lines[0][1] == lines[1][1] != lines[2][1] == lines[3][1]


async def test_a_second_signal_does_not_wait_for_the_job(paths: Paths) -> None:
    record(paths, 0, 1)
    one = daemon(paths, "stuck")
    async with living(one):
        await until(lambda: len(job_log(paths)) == 1)
        one.stop()
        one.stop()
    assert _states_in(paths) == ["interrupted"]
    assert len(job_log(paths)) == 1


async def test_a_release_is_not_published_twice_when_the_note_of_it_was_lost(paths: Paths) -> None:
    async with living(daemon(paths)) as one:
        record(paths, 0)
        await until(lambda: states(one) == ["published"])
    library = Library(paths.library_db)
    library.update_run("run-0001", state="running")
    library.close()
    async with living(daemon(paths)) as again:
        await until(lambda: states(again) == ["published"])
        assert [release["id"] for release in again.status()["releases"]] == ["r-0001"]
    assert len(job_log(paths)) == 2


async def test_when_it_is_gone_nobody_answers(paths: Paths) -> None:
    async with living(daemon(paths)):
        pass
    with pytest.raises(NotRunning):
        ask(paths, "status")


async def test_a_training_waits_for_the_machine_unless_it_is_asked_for(paths: Paths) -> None:
    record(paths, 0, 1)
    config = changed(conditions={"min_free_memory_gb": 10_000.0})
    async with living(daemon(paths, config=config)) as one:
        await until(lambda: one.status()["next"]["waits_for"] == "memory")
        assert "of 10000 GB are available" in one.status()["next"]["reason"]
        assert states(one) == []
        await asyncio.to_thread(ask, paths, "train")
        await until(lambda: states(one) == ["published"])


async def test_a_training_pauses_while_the_machine_is_needed_and_goes_on(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.work.conditions.CHECK_EVERY_S", 0.1)
    free = {"bytes": 1 << 60}
    monkeypatch.setattr("daemon.work.machine.free_bytes", lambda folder: free["bytes"])
    record(paths, 0, 1)
    async with living(daemon(paths, "slow", changed(conditions={"min_free_disk_gb": 2.0}))) as one:
        await until(lambda: job_log(paths))
        free["bytes"] = 900_000_000
        await until(lambda: states(one) == ["interrupted"])
        assert one.status()["runs"][0]["reason"] == "paused, waiting for disk space: 0.9 of 2 GB are free"
        await until(lambda: one.status()["next"]["waits_for"] == "disk")
        assert "run-0001 was interrupted" in one.status()["next"]["reason"]
        free["bytes"] = 1 << 60
        await until(lambda: states(one) == ["published"])


async def test_a_job_that_fills_the_disk_waits_for_space_and_is_not_held_to_have_failed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.work.conditions.CHECK_EVERY_S", 0.1)
    free = [1 << 60, 900_000_000]  # before the job and after it; then somebody makes room
    monkeypatch.setattr("daemon.work.machine.free_bytes", lambda folder: free.pop(0) if len(free) > 1 else free[0])
    record(paths, 0, 1)
    async with living(daemon(paths, "fail", changed(conditions={"min_free_disk_gb": 2.0}))) as one:
        await until(lambda: one.status()["next"]["waits_for"] == "disk")
        (run,) = one.status()["runs"]
        assert run["state"] == "interrupted"
        assert run["reason"].startswith("paused, waiting for disk space: 0.9 of 2 GB are free; the disk is full")
        free[0] = 1 << 60
        await until(lambda: states(one) == ["failed"])


async def test_a_run_that_the_daemon_dies_in_again_and_again_is_given_up(paths: Paths) -> None:
    record(paths, 0, 1)
    async with living(daemon(paths)) as one:
        await until(lambda: states(one) == ["published"])
    library = Library(paths.library_db)
    library.update_run("run-0001", state="running", crashes=2)
    library.close()
    async with living(daemon(paths)) as again:
        assert states(again) == ["failed"]
        assert again.status()["runs"][0]["reason"] == "the daemon ended 3 times while it ran"


async def test_a_stop_does_not_wait_for_a_job_that_hears_nothing(paths: Paths) -> None:
    record(paths, 0, 1)
    with process(paths, "deaf") as first:
        await until(lambda: len(job_log(paths)) == 1)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait, 50) == 0  # the job would go on for a minute
    assert _states_in(paths) == ["interrupted"]


async def test_new_settings_are_lived_by_without_a_new_process(paths: Paths) -> None:
    paths.make()
    record(paths, 0, 1)
    config = changed(training={"first_run_minutes": 60.0})
    async with living(daemon(paths, config=config)) as one:
        await until(lambda: one.status()["recordings"]["ready"] == 2)
        paths.config_file.write_text(example(CONFIG))
        await asyncio.to_thread(ask, paths, "reload")
        await until(lambda: states(one) == ["published"])


async def test_a_hang_up_lets_a_service_read_its_settings_again(paths: Paths) -> None:
    record(paths, 0, 1)
    with process(paths, "good", changed(training={"first_run_minutes": 60.0})) as service:
        await until(lambda: _ready(paths) == 2)
        paths.config_file.write_text("[training]\ntiers = 3\n")
        service.send_signal(signal.SIGHUP)
        await until(lambda: any("new settings cannot be used" in warning for warning in _asked(paths)["warnings"]))
        paths.config_file.write_text(example(CONFIG))
        service.send_signal(signal.SIGHUP)
        await until(lambda: [run["state"] for run in _asked(paths).get("runs", [])] == ["published"])
        assert service.poll() is None


def _ready(paths: Paths) -> int:
    return int(_asked(paths).get("recordings", {}).get("ready", 0))


def _asked(paths: Paths) -> dict[str, Any]:
    """What the daemon says, while it may be starting or reading its settings."""
    try:
        return ask(paths, "status")
    except NotRunning:
        return {"warnings": []}


async def test_a_job_goes_on_under_new_settings(paths: Paths) -> None:
    paths.make()
    record(paths, 0, 1)
    async with living(daemon(paths, "slow")) as one:
        await until(lambda: len(job_log(paths)) == 1)
        paths.config_file.write_text(example(changed(server={"label": "new"})))
        one.reload()
        await until(lambda: states(one) == ["published"])
    assert [line.split()[0] for line in job_log(paths)] == ["start", "end", "start", "end"]


async def test_settings_that_cannot_be_used_leave_everything_as_it_is(paths: Paths) -> None:
    paths.make()
    async with living(daemon(paths)) as one:
        urls = one.status()["server"]["urls"]
        paths.config_file.write_text("[training]\ntiers = ['nona']\n")
        with pytest.raises(ConfigError, match="nona"):
            await asyncio.to_thread(ask, paths, "reload")
        assert one.status()["server"]["urls"] == urls
        with socket.create_server(("127.0.0.1", 0)) as taken:
            paths.config_file.write_text(example(changed(server={"port": taken.getsockname()[1]})))
            await asyncio.to_thread(ask, paths, "reload")
            await until(lambda: any("going on with the old ones" in text for text in one.status()["warnings"]))
        assert one.status()["server"]["urls"]


async def test_a_service_hears_that_it_is_ready_alive_reloading_and_stopping(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(paths.state / "notify"))
        supervisor.settimeout(120)
        monkeypatch.setenv("NOTIFY_SOCKET", str(paths.state / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

        def heard_until(state: str) -> list[str]:
            heard: list[str] = []
            while state not in heard:
                heard.append(supervisor.recv(1000).decode().partition("\n")[0])
            return heard

        paths.config_file.write_text(example(CONFIG))
        async with living(daemon(paths)) as one:
            assert set(await asyncio.to_thread(heard_until, "READY=1")) <= {"WATCHDOG=1", "READY=1"}
            await asyncio.to_thread(heard_until, "WATCHDOG=1")
            one.reload()
            assert set(await asyncio.to_thread(heard_until, "RELOADING=1")) <= {"WATCHDOG=1", "RELOADING=1"}
            await asyncio.to_thread(heard_until, "READY=1")
            one.stop()
            assert "READY=1" not in heard_until("STOPPING=1")  # before anything was closed


async def test_the_users_command_hears_of_a_new_model(paths: Paths, tmp_path: Path) -> None:
    record(paths, 0, 1)
    script = "import os, sys; open(sys.argv[1], 'w').write(sys.argv[2] + '|' + os.environ['IDIOLECT_RELEASE'])"
    command = (sys.executable, "-c", script, str(tmp_path / "told"))
    async with living(daemon(paths, config=changed(notify={"on_publish": command}))) as one:
        await until(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text())
        assert (tmp_path / "told").read_text() == "Nano: 50 % → 10 %|r-0001"
        assert one.status()["warnings"] == []


async def test_a_command_that_fails_is_warned_of(paths: Paths) -> None:
    record(paths, 0, 1)
    async with living(daemon(paths, config=changed(notify={"on_publish": ("/no/such/command",)}))) as one:
        await until(lambda: any("on_publish: /no/such/command cannot be run" in w for w in one.status()["warnings"]))
        assert states(one) == ["published"]


async def test_the_log_holds_no_transcript(paths: Paths) -> None:
    record(paths, 0, 1, 2)
    async with living(daemon(paths)) as one:
        await until(lambda: states(one) == ["published"])
    texts = [path.read_text() for path in paths.recordings.glob("*.txt")]
    assert len(texts) == 3
    assert not [text for text in texts if text in paths.log_file.read_text()]
