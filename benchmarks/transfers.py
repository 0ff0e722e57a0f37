"""Kills server and client amid publications and transfers: `python -m benchmarks.transfers [ROUNDS] [SEED]`.

20 rounds and seed 0 where none are given. A server publishes when it is told to, a client watches and takes each
release; both are processes of their own. Each round publishes one more release and, at a random moment of the
publication or of the transfer after it, kills -9 one of the two or both. What is left must keep every promise of
`broken`; then the dead are started again, and the client must come to hold the newest release by itself. Exit status 1
when one does not.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.sync.releases import ReleaseStore
from idiolect.files import sha256_file
from idiolect.install import Place

PROFILE = "android-futo"
SIZE_BYTES = 6_000_000
BYTES_PER_S = 5e6
WAIT_S = 300.0
REST_S = 1.2  # then a client that has pulled waits for news
VICTIMS = ("server", "client", "both")
SERVE = """
import asyncio, sys
from pathlib import Path
from daemon.sync.devices import READ, Devices
from daemon.sync.identity import Identity
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from idiolect.pairing import Pairing
from tests.daemon.sync.publishing import candidate

async def main(folder, port, size_bytes, bytes_per_s):
    identity = Identity(folder / "keys")
    store, devices = ReleaseStore(folder / "store", identity.id), Devices(folder / "devices.sqlite3")
    server = Server(store, identity, devices, Door("", "127.0.0.1", port, bytes_per_s=bytes_per_s))
    await server.start()
    if not (folder / "pairing.json").exists():
        device, token = devices.add("phone", "benchmark", frozenset({READ}))
        urls = (f"https://127.0.0.1:{server.port}",)
        mine = Pairing(id=store.repo, pin=identity.pin, token=token, root_key=server.root_key, urls=urls)
        (folder / "pairing.json").write_text(mine.model_dump_json())
    print(server.port, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        made = candidate(folder / "made", int(line), size_bytes=size_bytes)
        print("publishing", flush=True)
        await asyncio.to_thread(store.publish, made)
        server.notify()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
"""
WATCH = """
import sys
from pathlib import Path
from idiolect import watch
from idiolect.client import Client
from idiolect.pairing import Pairing

pairing = Pairing.model_validate_json(Path(sys.argv[1]).read_bytes())
if sys.argv[4:]:
    watch.LONGEST_PAUSE_S, watch.SHORTEST_ROUND_S = 0.2, 0.02
client = Client(sys.argv[2], sys.argv[3], pairing=pairing, url=pairing.urls[0], timeout_s=5.0)
watch.watch(client, lambda _: None, lambda *_: None)
"""


@dataclass
class Trial:
    """One house with one device, and what was seen of them so far. `bytes_per_s` 0: as fast as it goes; `seen`: what
    was going on at the kills."""

    folder: Path
    chance: random.Random
    size_bytes: int = SIZE_BYTES
    bytes_per_s: float = BYTES_PER_S
    port: int = 0
    version: int = 0
    releases: dict[str, str] = field(default_factory=dict)  # digest of every file ever published → release
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def device(self) -> Place:
        """Where the device keeps its model."""
        return Place(self.folder / "device" / "model")


def main() -> int:
    """Run the rounds and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        clean = sum(not found for found in kill_rounds(Path(folder), rounds, seed, tell=print))
    print(f"{clean} of {rounds} rounds clean")
    return int(clean < rounds)


def kill_rounds(folder: Path, rounds: int, seed: int, tell: Callable[[str], None]) -> Iterator[list[str]]:
    """The broken promises of each round."""
    trial = Trial(folder, random.Random(seed))
    with contextlib.ExitStack() as closing:
        server, client, windows_s = closing.enter_context(watched(trial))
        for number in range(1, rounds + 1):
            _publish(server, number + 2)
            published_s, held_s = windows_s
            time.sleep(trial.chance.uniform(*trial.chance.choice([(0, published_s), (published_s, held_s)])))
            victim = trial.chance.choice(VICTIMS)
            for process in {"server": [server], "client": [client], "both": [server, client]}[victim]:
                process.kill()
                process.wait()
            phase = _phase(trial)
            trial.seen[phase] += 1
            found = broken(trial)
            server = closing.enter_context(_server(trial)) if victim != "client" else server
            client = closing.enter_context(_client(trial)) if victim != "server" else client
            _wait_until(lambda: _held(trial) == _newest(trial), "the newest release came")
            found += broken(trial)
            tell(f"{number:4d}  {victim:7} {phase:12} {'; '.join(found) or 'clean'} (manifest {trial.version})")
            yield found
    tell("met: " + ", ".join(f"{count} {phase}" for phase, count in trial.seen.most_common()))


@contextlib.contextmanager
def watched(trial: Trial) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str], tuple[float, float]]]:
    """A server and a client that holds its second release, and how long that took from the beginning of its
    publication to the end, and until the client had it, in seconds."""
    with _server(trial) as server:
        _publish(server, 1)
        with _client(trial) as client:
            _wait_until(lambda: _held(trial) == "r-0001", "the first release came")
            time.sleep(REST_S)
            yield server, client, _undisturbed(trial, server)


def broken(trial: Trial) -> list[str]:
    """The promises that store and device do not keep, whatever has just died."""
    found = []
    store = ReleaseStore(trial.folder / "store")
    if store.version < trial.version:
        found.append(f"the version fell from {trial.version} to {store.version}")
    trial.version = store.version
    for release in store.manifest.releases if store.manifest else ():
        for file in release.artifacts[0].files:
            trial.releases[file.sha256] = release.id
            blob = store.blob(file.sha256)
            if blob is None or sha256_file(blob) != file.sha256:
                found.append(f"{release.id} can be asked for and is not whole")
    for blob in (trial.folder / "store" / "blobs").rglob("*"):
        if blob.is_file() and sha256_file(blob) != blob.name:
            found.append(f"half a file lies among the blobs: {blob.name}")
    installed = trial.device.installed()
    if trial.device.into.exists() and installed is None:
        found.append("the device's folder shows half a model")
    for path in installed.files if installed else ():
        if trial.releases.get(sha256_file(trial.device.into / path)) != installed.release_id:  # type: ignore[union-attr]
            found.append(f"the device uses a file that {installed} does not have")
    return found


def _phase(trial: Trial) -> str:
    """What the kill has interrupted."""
    if (trial.folder / "store" / "tmp").exists():
        return "publication"
    if any(part.stat().st_size for part in trial.device.parts.glob("*")):
        return "transfer"
    return "after" if _held(trial) == _newest(trial) else "between"


def _newest(trial: Trial) -> str:
    manifest = ReleaseStore(trial.folder / "store").manifest
    return manifest.releases[0].id if manifest else ""


def _held(trial: Trial) -> str:
    installed = trial.device.installed()
    return installed.release_id if installed else ""


def _undisturbed(trial: Trial, server: subprocess.Popen[str]) -> tuple[float, float]:
    before = _newest(trial)
    _publish(server, 2)
    began_s = time.monotonic()
    _wait_until(lambda: _newest(trial) > before, "a release was published")
    published_s = time.monotonic() - began_s
    _wait_until(lambda: _held(trial) == _newest(trial), "it came")
    return published_s, time.monotonic() - began_s


def _publish(server: subprocess.Popen[str], seed: int) -> None:
    """Return when it has begun."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{seed}\n")
    server.stdin.flush()
    server.stdout.readline()


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"waited for {WAIT_S:.0f} s until {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def _server(trial: Trial) -> Iterator[subprocess.Popen[str]]:
    arguments = (str(trial.folder), str(trial.port), str(trial.size_bytes), str(trial.bytes_per_s))
    with _started(SERVE, *arguments) as process:
        assert process.stdout is not None
        trial.port = int(process.stdout.readline())
        yield process


@contextlib.contextmanager
def _client(trial: Trial) -> Iterator[subprocess.Popen[str]]:
    trial.device.into.parent.mkdir(exist_ok=True)
    quick = ["quick"] if trial.bytes_per_s else []
    with _started(WATCH, str(trial.folder / "pairing.json"), str(trial.device.into), PROFILE, *quick) as process:
        yield process


@contextlib.contextmanager
def _started(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
