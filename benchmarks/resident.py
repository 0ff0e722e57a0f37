"""What the daemon costs while it does nothing: `python -m benchmarks.resident [SECONDS]` (60).

Starts the real console script on a home of its own with the demo recordings in it, waits until they are read and the
reader has gone, then measures. Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import psutil

from daemon.config import Config, Recordings, Server, Training, example
from daemon.paths import HOME_VARIABLE, Paths
from daemon.sync.control import ask
from training import base_models

IDIOLECT = Path(sys.executable).with_name("idiolect")
VOICE = Path(base_models.__file__).parent / "data" / "voices" / "synthetic"

MAX_RSS_MB = 80.0
MAX_CPU_PERCENT = 1.0
MAX_START_S = 2.0
MAX_HELP_S = 0.4


def main() -> int:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    rows = [("idiolect --help", help_s(), MAX_HELP_S, "s")]
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.at(Path(folder))
        with daemon(paths) as (process, start_s):
            clips = wait_until_idle(paths, process)
            before = cpu_s(process)
            time.sleep(seconds)
            rows += [
                ("start to first /v1/hello", start_s, MAX_START_S, "s"),
                (f"memory with {clips} recordings", process.memory_info().rss / 1e6, MAX_RSS_MB, "MB"),
                (f"processor over {seconds:.0f} s", (cpu_s(process) - before) / seconds * 100, MAX_CPU_PERCENT, "%"),
            ]
    for name, value, limit, unit in rows:
        print(f"{name:<32} {value:8.2f} {unit:<2}  limit {limit:g} {unit:<2} {'ok' if value <= limit else 'MISSED'}")
    return int(any(value > limit for _, value, limit, _ in rows))


def help_s() -> float:
    """Median of five `idiolect --help`."""
    times_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        subprocess.run([IDIOLECT, "--help"], stdout=subprocess.DEVNULL, check=True)
        times_s.append(time.perf_counter() - began_s)
    return sorted(times_s)[2]


@contextlib.contextmanager
def daemon(paths: Paths, settle_s: float = 0.1, voice: Path | None = VOICE) -> Iterator[tuple[psutil.Process, float]]:
    """`idiolect run` in the home over a copy of `voice`, and the seconds it took to answer its first request."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = Config(
        recordings=Recordings(settle_s=settle_s),
        training=Training(tiers=("nano",), first_run_minutes=10_000.0),
        server=Server(port=port),
    )
    paths.make()
    paths.config_file.write_text(example(config))
    if voice is not None:
        shutil.copytree(voice, paths.recordings)
    environment = {HOME_VARIABLE: str(paths.state.parent), "PATH": "/usr/bin:/bin"}
    began_s = time.perf_counter()
    started = subprocess.Popen([IDIOLECT, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while not answers(port):
            if started.poll() is not None or time.perf_counter() - began_s > 30:
                raise SystemExit(f"the daemon did not start (status {started.returncode}); see {paths.log_file}")
            time.sleep(0.01)
        yield psutil.Process(started.pid), time.perf_counter() - began_s
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


def answers(port: int) -> bool:
    """Whether /v1/hello is answered."""
    context = ssl._create_unverified_context()  # whose key it is does not matter here
    connection = HTTPSConnection("127.0.0.1", port, timeout=1, context=context)
    try:
        connection.request("GET", "/v1/hello")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def wait_until_idle(paths: Paths, process: psutil.Process) -> int:
    """Wait until everything is read and no child is left; the number of ready recordings."""
    deadline_s = time.perf_counter() + 120
    expected = len(list(VOICE.glob("*.ogg")))
    while (ready := ask(paths, "status")["recordings"]["ready"]) < expected or process.children():
        if time.perf_counter() > deadline_s:
            raise SystemExit(f"{ready} of {expected} recordings are ready after two minutes")
        time.sleep(1)
    time.sleep(3)
    return expected


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds of the process and of the children that have ended."""
    return float(sum(process.cpu_times()[:4]))


if __name__ == "__main__":
    sys.exit(main())
