"""From store to device through what goes wrong in a house: processes that are killed, full disks, a wrong clock."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.transfers import kill_rounds
from idiolect.client import Client
from tests.idiolect.pulls import everything


@pytest.mark.slow
def test_whoever_is_killed_nothing_is_lost(tmp_path: Path) -> None:
    said: list[str] = []
    assert list(kill_rounds(tmp_path, 3, seed=3, tell=said.append)) == [[]] * 3, said


PULL = """
import datetime, sys
from idiolect import Client, wire
from idiolect.errors import SyncError

now = wire.utc_now() + datetime.timedelta(days=float(sys.argv[3]))
wire.utc_now = lambda: now
try:
    print(Client(sys.argv[1], "android-futo", url=sys.argv[2]).pull().release_id)
except SyncError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_clock_that_is_wrong_by_a_year(url: str, publish: Callable[..., bytes], into: Path) -> None:
    """Ahead, everything seems to be old: what is there stays in use. Behind, nothing does. Mended, all is well."""

    def pull(days: float) -> str:
        command = [sys.executable, "-c", PULL, str(into), url, str(days)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    publish(1)
    assert pull(-365) == "r-0001\n"
    second = publish(2)
    before = everything(into.parent)
    assert "no fresh news: the manifest expired on" in (said := pull(365))
    assert "is the clock right, here and there?" in said
    assert everything(into.parent) == before
    pulled = Client(into, "android-futo", url=url).pull()
    assert (pulled.release_id, pulled.files[0].read_bytes()) == ("r-0002", second)


FULL = """
import contextlib, json, sys
from pathlib import Path
from daemon.sync import releases
from daemon.sync.releases import ReleaseStore
from idiolect import Client, client, fetch
from idiolect.errors import IdiolectError
from idiolect.pairing import Pairing
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.services import serving

SIZE = 300_000
fetch.BACKOFF_S = 0.001
said = []

def fill(disk, left_bytes=0):
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with (disk / "filler").open("r+b") as filler:
        filler.truncate((disk / "filler").stat().st_size - left_bytes)

def fails(work):
    try:
        work()
    except IdiolectError as error:
        said.append(f"{type(error).__name__}: {error.message}")

def main(here, there, work):
    store = ReleaseStore(here / "store")
    store.publish(candidate(work, 1, size_bytes=SIZE))
    second = candidate(work, 2, size_bytes=SIZE)
    with serving(store) as way:
        pairing = Pairing(id=store.repo, pin=way.pin, token=way.token, root_key=store.keys.root_key)
        mine = Client(there / "current", "android-futo", url=way.url, pairing=pairing)
        used = mine.pull().files[0]
        for full in (lambda disk: fill(disk, 100_000), lambda disk: fill(disk)):
            for check in (releases.free_bytes, lambda _: 1 << 40):  # as if others had filled it after the check
                releases.free_bytes = check
                full(here)
                fails(lambda: store.publish(second))
                (here / "filler").unlink()
                assert ReleaseStore(here / "store").version == store.version == 1
                assert used.read_bytes() == mine.pull().files[0].read_bytes() == model_bytes(1, SIZE)
        store.publish(second)
        for full in (lambda disk: fill(disk, 100_000), lambda disk: fill(disk)):
            for check in (client.free_bytes, lambda _: 1 << 40):
                client.free_bytes = check
                full(there)
                fails(mine.pull)
                assert used.read_bytes() == model_bytes(1, SIZE)
                (there / "filler").unlink()
        assert mine.pull().files[0].read_bytes() == model_bytes(2, SIZE)
    print(json.dumps(said))

main(*map(Path, sys.argv[1:]))
"""
DISKS = 'for disk in "$1" "$2"; do mount -t tmpfs -o size=1500k none "$disk" || exit 9; done; shift 2; exec "$@"'


@pytest.mark.slow
def test_full_disks_on_both_sides(tmp_path: Path) -> None:
    """Real ones: what is published stays published, what is in use stays in use, and with room again all goes on."""
    if not shutil.which("unshare"):
        pytest.skip("small disks of their own need unshare(1)")
    disks = [tmp_path / "here", tmp_path / "there", tmp_path / "work"]
    for disk in disks:
        disk.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", DISKS, "sh", *map(str, disks[:2])]
    command = [*own, sys.executable, "-c", FULL, *map(str, disks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or done.returncode == 9:
        pytest.skip("this machine lets no user mount a tmpfs in a namespace of their own")
    assert done.returncode == 0, done.stderr
    said = [each.partition(f"{tmp_path}")[0] for each in json.loads(done.stdout)]
    needs = [each for each in said if each.endswith(" free")]
    assert len(needs) == 2, said  # seen before anything is copied
    assert [each for each in said if each not in needs] == [
        *["StoreError: cannot publish: No space left on device"] * 3,
        "TransferFailed: cannot write ",
        *["SyncError: cannot write "] * 2,
    ]
