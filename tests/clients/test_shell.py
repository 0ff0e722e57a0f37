"""The client for shells, run by each shell that is here against the real server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.shells import (
    SCRIPT,
    Client,
    address,
    every_shell,
    invitation,
    let_in,
    needs_its_tools,
)
from tests.daemon.sync.doors import identity, stranger
from tests.daemon.sync.post import Post, wav
from tests.daemon.sync.publishing import artifact, model_bytes, of
from tests.idiolect.services import lying, through_a_cable

pytestmark = [pytest.mark.slow, needs_its_tools]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "model"


@every_shell
def test_pairing_by_the_text_of_a_code(at: Post, client: Client, tmp_path: Path) -> None:
    code = invitation(at)
    done = client("pair", code)
    assert done.returncode == 0, done.stderr
    assert "let in by desk as d-" in done.stdout
    kept = tmp_path / "config" / "service.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    service = json.loads(kept.read_text())
    assert (service["id"], service["pin"]) == (at.store.repo, identity().pin)
    working, other = f"https://{address(at)}", "https://127.0.0.1:9"
    assert service["urls"] == [working, other, f"https://{at.store.repo}.local:{at.house.server.port}"]
    assert at.house.devices.by_token(service["token"]) is not None
    assert service["token"] not in done.stdout + done.stderr + (tmp_path / "calls").read_text()
    again = client("pair", code)
    assert again.returncode == 6
    assert "did not" in again.stderr or "not" in again.stderr
    assert json.loads(kept.read_text()) == service


@pytest.mark.parametrize(
    "text", ["", "http://x", "idiolect://pair?v=2&id=x", "idiolect://pair?v=1&id=x&pin=short&s=x&h=y"]
)
def test_what_is_no_code(client: Client, text: str) -> None:
    done = client("pair", text)
    assert done.returncode == 2
    assert done.stderr.startswith("idiolect: ")


def test_pairing_through_somebody_in_between(at: Post, client: Client, tmp_path: Path) -> None:
    code = invitation(at)
    with lying(stranger()) as service:
        done = client("pair", code.replace(address(at), service.url.removeprefix("https://")))
        assert service.requests == []
    assert done.returncode == 5
    assert "another machine answers" in done.stderr
    assert not (tmp_path / "config" / "service.json").exists()


@every_shell
@pytest.mark.parametrize("agreed", [True, False])
def test_pairing_by_six_digits(
    at: Post, shell: list[str], environment: dict[str, str], agreed: bool, tmp_path: Path
) -> None:
    desk = at.house.server.pairing
    invitation(at)
    command = [*shell, str(SCRIPT), "join", address(at)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    told = running.stderr.readline()
    (attempt,) = desk.to_compare()
    assert re.findall(r"[0-9]{6}", told) == [attempt.digits], told
    assert at.loop is not None
    at.loop.call_soon_threadsafe(lambda: desk.decide(attempt.pair_id, agreed=agreed))
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (0 if agreed else 6), errors
    assert (tmp_path / "config" / "service.json").exists() == agreed


@every_shell
def test_pulling_and_pulling_again(paired: Post, client: Client, publish: Callable[..., bytes], tmp_path: Path) -> None:
    into, name = tmp_path / "model", "current/idiolect-tiny-android-futo.bin"
    assert client("pull", "android-futo", into).returncode == 4  # nothing is published yet
    first = publish(1)
    done = client("pull", "android-futo", into)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"r-0001 (tiny): new\n  {into}/{name}\n"
    assert (into / name).read_bytes() == first
    assert client("pull", "android-futo", into).stdout.startswith("already the newest")
    second = publish(2)
    assert client("pull", "android-futo", into).returncode == 0
    assert (into / name).read_bytes() == second
    versions = sorted((into / ".idiolect").glob("r-*"))
    assert len(versions) == 2  # the one before is kept
    third = publish(3)
    assert client("pull", "android-futo", into).returncode == 0
    assert (into / name).read_bytes() == third
    assert len(sorted((into / ".idiolect").glob("r-*"))) == 2
    assert client("pull", "no-such-profile", into).returncode == 4
    assert client("pull", "android-futo", into, "beta").returncode == 4
    assert (into / name).read_bytes() == third
    assert not list(into.glob(".current*"))
    assert not list((into / ".idiolect" / "parts").iterdir())
    assert paired.house.token not in (tmp_path / "calls").read_text()
    assert not (into / ".idiolect" / "lock").exists()


@every_shell
def test_resuming(paired: Post, client: Client, publish: Callable[..., bytes], tmp_path: Path) -> None:
    data = publish(1, size_bytes=400_000)
    into = tmp_path / "model"
    with through_a_cable(f"https://{address(paired)}") as cable:
        let_in(tmp_path, cable.url, paired.house.token, root_key=paired.house.server.root_key)
        cable.cuts = [*[1 << 20] * 3, 150_000, 100_000]  # hello, manifest, root, and the file in three pieces
        done = client("pull", "android-futo", into)
        assert done.returncode == 0, done.stderr
        ranges = [re.search(rb"Range: bytes=([0-9]+)-", request) for request in cable.requests]
    begun = [int(found[1]) for found in ranges if found]
    assert len(begun) == 3
    assert begun[0] == 0 < begun[1] < begun[2]
    assert (into / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == data


@pytest.mark.parametrize("damage", ["flipped", "longer", "another"])
def test_corrupt_partials(
    paired: Post, client: Client, publish: Callable[..., bytes], tmp_path: Path, damage: str
) -> None:
    data = publish(1)
    parts = tmp_path / "model" / ".idiolect" / "parts"
    parts.mkdir(parents=True)
    bad = {"flipped": b"X" + data[1:3000], "longer": data + b"x", "another": bytes(len(data))}[damage]
    (parts / hashlib.sha256(data).hexdigest()).write_bytes(bad)
    done = client("pull", "android-futo", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == data


@every_shell
def test_what_a_killed_pull_leaves(
    paired: Post,
    shell: list[str],
    client: Client,
    environment: dict[str, str],
    publish: Callable[..., bytes],
    into: Path,
) -> None:
    """Its lock holds nobody up, and what it has brought is not fetched again."""
    data = publish(1, size_bytes=60_000_000)
    parts = into / ".idiolect" / "parts"
    command = [*shell, str(SCRIPT), "pull", "android-futo", str(into)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as running:
        while not any(each.stat().st_size for each in parts.glob("*.more")):
            assert running.poll() is None
        os.killpg(running.pid, signal.SIGKILL)
    assert (into / ".idiolect" / "lock" / "pid").exists()
    done = client("pull", "android-futo", into)
    assert done.returncode == 0, done.stderr
    assert (into / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == data
    ranges = [int(found) for found in re.findall(r"Range: bytes=(\d+)-", (into.parent / "calls").read_text())]
    assert ranges[0] == 0 < ranges[-1]
    assert not (into / ".idiolect" / "lock").exists()
    assert not list(parts.iterdir())


def test_a_busy_service_is_waited_for(
    paired: Post, client: Client, environment: dict[str, str], publish: Callable[..., bytes], into: Path
) -> None:
    """More often than a broken one is tried, and not for ever; both is said."""
    data, calls = publish(1), into.parent / "calls"
    slots = paired.house.server._pace.slots
    slots.total = 0
    impatient = into.parent / "impatient"
    impatient.write_text(SCRIPT.read_text().replace("busy_s=900", "busy_s=60"))
    command = ["sh", str(impatient), "pull", "android-futo", str(into)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "is busy, for 1 minutes now; pull again" in done.stderr) == (4, True)
    assert done.stderr.count("is busy, with other devices or because it trains; waiting") == 1
    with subprocess.Popen(["sh", str(SCRIPT), *command[2:]], env=environment, stderr=subprocess.PIPE) as running:
        before = calls.read_text().count("/v1/blobs")
        while calls.read_text().count("/v1/blobs") < before + 8:
            assert running.poll() is None
        slots.total = 1
    assert running.returncode == 0
    assert (into / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == data


def test_a_pull_that_lives_is_not_disturbed(
    paired: Post, client: Client, publish: Callable[..., bytes], into: Path
) -> None:
    publish(1)
    lock = into / ".idiolect" / "lock"
    lock.mkdir(parents=True)
    for pid in ("", str(os.getpid())):
        (lock / "pid").write_text(pid)
        done = client("pull", "android-futo", into)
        assert (done.returncode, "another pull works" in done.stderr) == (4, True)
    assert lock.exists()


def test_too_little_room(
    paired: Post, client: Client, environment: dict[str, str], publish: Callable[..., bytes], into: Path
) -> None:
    """Said before anything is fetched; a `df` that stands in for a full disk."""
    publish(1, size_bytes=3_000_000)
    df = Path(environment["PATH"].partition(":")[0]) / "df"
    df.write_text(
        "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted\necho /dev/x 9 8 1000 99% /\n"
    )
    df.chmod(0o755)
    done = client("pull", "android-futo", into)
    assert (done.returncode, "needs 2930 KB and the disk has 1000 KB free" in done.stderr) == (4, True)
    assert "/v1/blobs" not in (into.parent / "calls").read_text()
    df.unlink()
    assert client("pull", "android-futo", into).returncode == 0
    (phone,) = paired.house.devices.describe()
    assert [(each["profile"], each["release"], each["loaded"]) for each in phone["holds"]] == [
        ("android-futo", "r-0001", None)
    ]


def test_a_file_of_no_bytes(paired: Post, client: Client, into: Path, tmp_path: Path) -> None:
    files = {"model.bin": model_bytes(1), "empty.txt": b""}
    paired.store.publish(of((artifact(tmp_path / "made", files), tmp_path / "made")))
    done = client("pull", "android-futo", into)
    assert done.returncode == 0, done.stderr
    assert {name: (into / "current" / name).read_bytes() for name in files} == files


def test_a_revoked_device(paired: Post, client: Client, publish: Callable[..., bytes], tmp_path: Path) -> None:
    publish(1)
    paired.house.server.revoke("phone")
    assert client("pull", "android-futo", tmp_path / "model").returncode == 6
    (tmp_path / "a.wav").write_bytes(wav(tmp_path))
    assert client("send", tmp_path / "a.wav").returncode == 6


def test_leaving(paired: Post, client: Client, tmp_path: Path) -> None:
    assert client("leave").returncode == 0
    assert paired.house.devices.by_token(paired.house.token) is None
    assert client("leave").returncode == 6
    assert client("pull", "android-futo", tmp_path / "model").returncode == 6


# Recordings


@every_shell
def test_sending(paired: Post, client: Client, tmp_path: Path) -> None:
    note, cues, bad = tmp_path / "my note.wav", tmp_path / "cues.wav", tmp_path / "bad.wav"
    note.write_bytes(wav(tmp_path))
    note.with_suffix(".txt").write_text('say "hé"\n$(touch x)\n')
    cues.write_bytes(wav(tmp_path, 40.0, seed=2))
    cues.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhi\n")
    bad.write_bytes(b"no sound")
    done = client("send", note, cues)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{note}: waiting\n{cues}: waiting\n"
    first, second = paired.inbox.all()
    assert first.meta is not None
    assert second.meta is not None
    assert (first.meta.text, first.meta.format) == ('say "hé"\n$(touch x)\n', "txt")
    assert second.meta.format == "srt"
    done = client("send", bad, note)
    assert done.returncode == 4
    assert "bad.wav was not taken: not audio" in done.stderr
    assert f"{note}: waiting" in done.stdout
    puts = [line for line in (tmp_path / "calls").read_text().splitlines() if " -T " in line]
    assert len(puts) == 3  # the note only once
    assert client("send", tmp_path / "none.wav").returncode == 2
    assert len(paired.inbox.all()) == 2


@every_shell
def test_wrong_use_and_missing_tools(client: Client, environment: dict[str, str], tmp_path: Path) -> None:
    for arguments in ((), ("pull",), ("fly", "away"), ("send",)):
        done = client(*arguments)
        assert done.returncode == 2
    assert "idiolect pull PROFILE FOLDER" in client().stdout
    few = tmp_path / "few"
    few.mkdir()
    for name in ("mktemp", "rm", "sed", "date", "curl", "openssl"):
        (few / name).symlink_to(str(shutil.which(name)))
    done = client("leave", PATH=str(few))
    assert done.returncode == 2
    assert "jq is missing" in done.stderr


def test_two_at_once(paired: Post, client: Client, publish: Callable[..., bytes], tmp_path: Path) -> None:
    publish(1, size_bytes=2_000_000)
    found: list[int] = []
    pulls = [
        threading.Thread(target=lambda: found.append(client("pull", "android-futo", tmp_path / "model").returncode))
        for _ in range(3)
    ]
    for each in pulls:
        each.start()
    for each in pulls:
        each.join()
    assert set(found) <= {0, 4}
    assert 0 in found
    assert client("pull", "android-futo", tmp_path / "model").returncode == 0
