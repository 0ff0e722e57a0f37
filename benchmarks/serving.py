"""What serving costs: `python -m benchmarks.serving [ROUNDS]` (8). Exit status 1 when a limit is missed, 3 when none
is but some could not be judged because nginx is missing.

One file of 200 MB in memory over TLS on loopback, by the real server and by nginx in turn (Debian: nginx-light), each
in a process of its own; then memory with four streams, a small request beside two downloads, and two hundred paired
devices that ask every two seconds. At last how long a device takes to find the service and read its manifest, and from
a publication of 40 MB until a device that watches has swapped. Take the figures on a quiet machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import math
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from benchmarks.resident import cpu_s
from benchmarks.transfers import Trial, watched
from idiolect import fetch
from idiolect.client import reach
from idiolect.pairing import Pairing
from idiolect.wire import MAX_MANIFEST_BYTES

SIZE_BYTES = 200_000_000
DEVICES, EVERY_S, POLLED_S = 200, 2.0, 20.0
MIN_SPEED_SHARE, MAX_CPU_SHARE = 0.8, 1.2  # of nginx's
MAX_GROWTH_MB, MAX_P95_MS, MAX_POLLING_PERCENT = 16.0, 25.0, 10.0
MAX_FOUND_S, MAX_SWAPPED_S, SWAPPED_BYTES = 2.0, 5.0, 40_000_000

SERVE = """
import asyncio, json, sys
from pathlib import Path
from daemon.sync.devices import READ, Devices
from daemon.sync.discovery import Advertisement
from daemon.sync.identity import Identity
from daemon.sync.releases import ReleaseStore
from daemon.sync.server import Door, Server
from idiolect.pairing import Pairing
from tests.daemon.sync.publishing import candidate

async def main(folder, size_bytes, count):
    identity = Identity(folder / "keys")
    store = ReleaseStore(folder / "store", identity.id)
    store.publish(candidate(folder / "made", 1, size_bytes=size_bytes))
    devices = Devices(folder / "devices.sqlite3")
    tokens = [devices.add(f"device {i}", "benchmark", frozenset({READ}))[1] for i in range(count)]
    server = Server(store, identity, devices, Door("", "127.0.0.1", 0))
    await server.start()
    await Advertisement(store.repo, "", "127.0.0.1", server.port, store.version).start()
    (digest,) = store.published.files
    pairing = Pairing(id=store.repo, pin=identity.pin, token=tokens[0])
    print(json.dumps([server.port, digest, tokens, pairing.model_dump_json()]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""
NGINX = """
worker_processes 1; daemon off; user {user}; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port} ssl; root {folder};
    ssl_certificate {keys}/tls-certificate.pem; ssl_certificate_key {keys}/tls-key.pem; }}
}}
"""


@dataclass(frozen=True)
class Target:
    """A process that serves the file at `url` to who shows `header`."""

    name: str
    process: psutil.Process
    url: str
    header: str
    pairing: str = ""


def main() -> int:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as closing:
        folder = Path(temporary)
        ours, tokens = closing.enter_context(_ours(folder))
        nginx = closing.enter_context(_nginx(folder))
        rows = _compared(rounds, ours, nginx)
        with _downloads(ours, tokens, 4) as before_mb:
            time.sleep(1.0)
            rows.append(
                ("memory growth, 4 streams", ours.process.memory_info().rss / 1e6 - before_mb, MAX_GROWTH_MB, "MB")
            )
        hello = ours.url.partition("/v1/")[0] + "/v1/hello"
        with _downloads(ours, tokens, 2):
            rows.append(("small request beside two, p95", asyncio.run(_p95_ms(hello)), MAX_P95_MS, "ms"))
        rows.append(
            (f"{DEVICES} devices every {EVERY_S:g} s", asyncio.run(_polling(ours, tokens)), MAX_POLLING_PERCENT, "%")
        )
        rows.append(("found by mDNS, to the manifest", _found_s(ours), MAX_FOUND_S, "s"))
        trial = Trial(folder / "watched", Random(0), SWAPPED_BYTES, 0.0)
        trial.folder.mkdir()
        with watched(trial) as (_, _, (_, swapped_s)):
            rows.append(("published to swapped, 40 MB", swapped_s, MAX_SWAPPED_S, "s"))
    return judged(rows)


def judged(rows: Sequence[tuple[str, float, float, str]]) -> int:
    """Print each beside its limit; the exit status. A value that is no number could not be taken."""
    for name, value, limit, unit in rows:
        verdict = "NOT JUDGED" if math.isnan(value) else "ok" if value <= limit else "MISSED"
        print(f"{name:<32} {value:8.2f} {unit:<2}  limit {limit:g} {unit:<2} {verdict}")
    values = [value for _, value, _, _ in rows]
    return 1 if any(value > limit for _, value, limit, _ in rows) else 3 if any(map(math.isnan, values)) else 0


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[tuple[Target, list[str]]]:
    command = [sys.executable, "-c", SERVE, str(folder), str(SIZE_BYTES), str(DEVICES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port, digest, tokens, pairing = json.loads(process.stdout.readline())
            url = f"https://127.0.0.1:{port}/v1/blobs/sha256:{digest}"
            target = Target("idiolect", psutil.Process(process.pid), url, f"Authorization: Bearer {tokens[0]}", pairing)
            yield target, tokens
        finally:
            process.kill()


@contextlib.contextmanager
def _nginx(folder: Path) -> Iterator[Target | None]:
    program = shutil.which("nginx")
    if program is None:
        print("nginx is not installed, so what has to stand beside it is NOT JUDGED (Debian: nginx-light)")
        yield None
        return
    place = folder / "nginx"
    place.mkdir()
    (place / "blob").write_bytes(next((folder / "made").rglob("*.bin")).read_bytes())
    port = 18_443
    (place / "nginx.conf").write_text(
        NGINX.format(folder=place, keys=folder / "keys", port=port, user=getpass.getuser())
    )
    with subprocess.Popen([program, "-c", place / "nginx.conf", "-p", place], stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(1.0)
            (worker,) = psutil.Process(process.pid).children()
            yield Target("nginx", worker, f"https://127.0.0.1:{port}/blob", "X-Nothing: 1")
        finally:
            process.terminate()


def _compared(rounds: int, ours: Target, nginx: Target | None) -> list[tuple[str, float, float, str]]:
    targets = [each for each in (ours, nginx) if each]
    found: dict[str, list[tuple[float, float]]] = {each.name: [] for each in targets}
    for _ in range(rounds + 1):
        for target in targets:
            found[target.name].append(_download(target))
    for name, pairs in found.items():
        speeds, costs = ([pair[i] for pair in pairs[1:]] for i in (0, 1))  # the first round warms up
        said = f"{statistics.median(speeds):5.0f} MB/s ({min(speeds):.0f}-{max(speeds):.0f})"
        print(f"{name:<32} {said}, {statistics.median(costs):.2f} CPU-s/GB ({min(costs):.2f}-{max(costs):.2f})")
    slower = dearer = math.nan
    if nginx:
        speed, cost = ([statistics.median(p[i] for p in found[each.name][1:]) for each in targets] for i in (0, 1))
        slower, dearer = speed[1] / speed[0], cost[0] / cost[1]
    return [
        ("nginx's speed over ours", slower, 1 / MIN_SPEED_SHARE, "x"),
        ("our processor time over nginx's", dearer, MAX_CPU_SHARE, "x"),
    ]


def _curl(target: Target, *options: str) -> list[str]:
    return ["curl", "-sk", "-o", "/dev/null", "-H", target.header, *options, target.url]


def _download(target: Target) -> tuple[float, float]:
    """MB/s and CPU-seconds of the server per GB."""
    before_s = cpu_s(target.process)
    told = subprocess.run(_curl(target, "-w", "%{speed_download} %{size_download}"), capture_output=True, check=True)
    speed, size_bytes = map(float, told.stdout.split())
    assert size_bytes == SIZE_BYTES
    return speed / 1e6, (cpu_s(target.process) - before_s) / (SIZE_BYTES / 1e9)


@contextlib.contextmanager
def _downloads(ours: Target, tokens: list[str], count: int) -> Iterator[float]:
    """So many downloads at once, again and again; gives the server's memory before, in MB."""
    before_mb = ours.process.memory_info().rss / 1e6
    script = 'while curl -sk -o /dev/null -H "$1" "$2"; do :; done'
    headers = [f"Authorization: Bearer {tokens[1 + number // 2]}" for number in range(count)]
    quiet = subprocess.DEVNULL
    running = [subprocess.Popen(["sh", "-c", script, "sh", header, ours.url], stderr=quiet) for header in headers]
    try:
        yield before_mb
    finally:
        for process in running:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            process.wait()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, *headers: str) -> bytes:
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode())
    return await reader.readuntil(b"\r\n\r\n")


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _p95_ms(url: str) -> float:
    """A new connection with its handshake and one small answer, a hundred times."""
    port = int(url.split(":")[2].partition("/")[0])
    times_ms = []
    for _ in range(100):
        began_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_tls())
        await _ask(reader, writer, "/v1/hello")
        times_ms.append((time.perf_counter() - began_s) * 1000)
        writer.close()
        await asyncio.sleep(0.05)
    return sorted(times_ms)[94]


def _found_s(ours: Target) -> float:
    """As a device does that knows no address; the slowest of three."""
    times_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        connection = reach(Pairing.model_validate_json(ours.pairing), [], 10.0)
        reply = fetch.get(connection, "/v1/manifest", limit_bytes=MAX_MANIFEST_BYTES, timeout_s=10.0)
        times_s.append(time.perf_counter() - began_s)
        assert reply.status == 200
    return max(times_s)


async def _polling(ours: Target, tokens: list[str]) -> float:
    """Percent of one core while every device asks for the manifest it has, on a connection that stays open."""
    port = int(ours.url.split(":")[2].partition("/")[0])

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        headers = (f"Authorization: Bearer {token}", 'If-None-Match: "mv-1"')
        assert b" 304 " in await _ask(reader, writer, "/v1/manifest", *headers)

    async def device(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await ask(reader, writer, token)

    tasks = []
    for token in tokens:  # one by one: from one address few may knock at once
        connection = await asyncio.open_connection("127.0.0.1", port, ssl=_tls())
        await ask(*connection, token)
        tasks.append(asyncio.create_task(device(*connection, token)))
    await asyncio.sleep(EVERY_S)
    before_s = cpu_s(ours.process)
    await asyncio.sleep(POLLED_S)
    percent = (cpu_s(ours.process) - before_s) / POLLED_S * 100
    assert not [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    return percent


if __name__ == "__main__":
    sys.exit(main())
