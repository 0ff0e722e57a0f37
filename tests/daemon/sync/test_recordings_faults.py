"""Recordings from devices while the disk fills up and the service is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from daemon.sync.inbox import Inbox
from tests.daemon.sync.doors import asking, client_tls
from tests.daemon.sync.post import ROOMY, files, place, post, wav

pytestmark = pytest.mark.slow


def _own_tmpfs() -> list[str]:
    """How to run something with a disk of its own, of 2 MB, at $DISK; [] where that is not to be had."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = [*command, 'mount -t tmpfs -o size=2m none "$1"', "sh"]
    with tempfile.TemporaryDirectory() as folder:
        if (
            shutil.which("unshare")
            and subprocess.run([*probe, folder], capture_output=True, check=False).returncode == 0
        ):
            return [*command, 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"', "sh"]
    return []


FILL = """
import asyncio, json, sys
from pathlib import Path
from tests.daemon.sync.doors import asking, client_tls
from tests.daemon.sync.post import files, place, post, wav

async def main(disk, work):
    at = post(disk)
    ((host, port),) = await at.house.server.start()
    ask = asking(at.house, host, port, client_tls())
    statuses = []
    for seed in range(12):  # more than there is room for
        data = wav(work, 10.0, seed=seed)
        statuses.append((await ask(place(data), method="PUT", body=data))[0])
        if statuses[-1] == 201:
            meta = json.dumps({"text": f"number {seed}"}).encode()
            statuses.append((await ask(place(data) + "/meta", method="PUT", body=meta))[0])
    assert (await ask("/v1/hello", token=""))[0] == 200
    arriving, waiting = files(at.inbox.arriving), at.inbox.all("waiting")
    for each in waiting[1:]:
        at.inbox.refuse(each.number)
    data = wav(work, 1.0, seed=99)
    after = (await ask(place(data), method="PUT", body=data))[0]
    print(json.dumps({"statuses": statuses, "arriving": arriving, "waiting": len(waiting), "after": after}))
    await at.stop()

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real one: what does not fit is refused with 507, what was there stays, and it goes on once there is room."""
    own_disk = _own_tmpfs()
    if not own_disk:
        pytest.skip("a small disk of its own needs unshare(1) and user namespaces")
    disk, work = tmp_path / "disk", tmp_path / "work"
    disk.mkdir()
    work.mkdir()
    command = [*own_disk, str(disk), sys.executable, "-c", FILL, str(disk), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["statuses"]) == {200, 201, 507}
    assert found["arriving"] == []
    assert found["waiting"] == found["statuses"].count(201) > 0
    assert found["after"] == 201


SERVE = """
import asyncio, sys
from pathlib import Path
from tests.daemon.sync.post import post

async def main():
    at = post(Path(sys.argv[1]))
    ((_, port),) = await at.house.server.start()
    print(port, at.house.token, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    """kill -9 all over an upload: what was answered for is there, all else is gone and can be sent again."""
    home, data = tmp_path / "home", wav(tmp_path, 20.0)
    was_there = 0
    for moment in range(7):
        serving = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True)
        assert serving.stdout is not None
        port, token = (await asyncio.to_thread(serving.stdout.readline)).split()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=client_tls())
        head = f"PUT {place(data)} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: len(data) * moment // 4])
        await writer.drain()
        answer = b""
        with contextlib.suppress(TimeoutError):
            answer = await asyncio.wait_for(reader.readline(), 0.1 + 0.3 * max(0, moment - 3))
        os.kill(serving.pid, signal.SIGKILL)
        serving.wait()
        serving.stdout.close()
        writer.transport.abort()
        inbox = Inbox(home / "inbox", home / "recordings", ROOMY)
        kept = inbox.all()
        assert files(home / "inbox") == sorted(f"kept/{each.kept.name}" for each in kept)
        assert len(kept) - was_there in ({1} if b" 201 " in answer else {0, 1})
        was_there = len(kept)  # each start lets a new device in, so each sends it anew
        inbox.close()
    at = post(home)
    ((host, port_number),) = await at.house.server.start()
    answered = await asking(at.house, host, port_number, client_tls())(place(data), method="PUT", body=data)
    assert answered[0] == 201
    await at.stop()
