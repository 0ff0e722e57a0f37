"""The client for shells, run by each shell that is here against the real server and against ones that lie."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import operator
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from idiolect import wire
from tests.daemon.sync.doors import identity, stranger
from tests.daemon.sync.post import Post, posting, wav
from tests.daemon.sync.publishing import candidate, model_bytes
from tests.idiolect.services import LyingService, Request, lying, through_a_cable

SCRIPT = Path(__file__).parent.parent.parent / "clients" / "shell" / "idiolect"
NEEDED = ("curl", "openssl", "jq")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
SIGNS = find_spec("idiolect.signing") is not None
SHELLS = [name for name in ("dash", "bash", "busybox", "mksh") if shutil.which(name)] or ["sh"]
TOKEN = "idl_" + "t" * 43

needs_signing = pytest.mark.skipif(not SIGNS, reason="the service does not sign its manifests here")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"the shell client needs {', '.join(MISSING)}"),
]


# What every shell has to understand; the rest is judged in the first one alone, as a second differs in syntax only.
every_shell = pytest.mark.parametrize("shell", SHELLS, indirect=True)


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> list[str]:
    name = getattr(request, "param", SHELLS[0])
    return [str(shutil.which(name)), *(["sh"] if name == "busybox" else [])]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a curl that notes how it was called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "curl").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/calls\nexec {shutil.which("curl")} "$@"\n'
    )
    (tools / "curl").chmod(0o755)
    return {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "IDIOLECT_CONFIG": str(tmp_path / "config"),
        "IDIOLECT_PAUSE_S": "0",
        "https_proxy": "http://127.0.0.1:9",
    }


Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def client(shell: list[str], environment: dict[str, str]) -> Client:
    def client(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        command = [*shell, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=100, check=False)

    return client


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Post]:
    with posting(tmp_path / "home") as at:
        yield at


@pytest.fixture
def publish(at: Post, tmp_path: Path) -> Callable[..., bytes]:
    def publish(seed: int, size_bytes: int = 5_000) -> bytes:
        at.store.publish(candidate(tmp_path / "made", seed, size_bytes=size_bytes))
        return model_bytes(seed, size_bytes)

    return publish


def address(at: Post) -> str:
    return f"127.0.0.1:{at.house.server.port}"


def invitation(at: Post) -> str:
    return at.house.server.pairing.open(at.store.repo, ["127.0.0.1:9", address(at)]).uri()


def let_in(tmp_path: Path, url: str, token: str = TOKEN, **more: str) -> None:
    """As `pair` leaves it."""
    (tmp_path / "config").mkdir(exist_ok=True)
    service = {"id": identity().id, "pin": identity().pin, "token": token, "urls": [url], **more}
    (tmp_path / "config" / "service.json").write_text(json.dumps(service))


@pytest.fixture
def paired(at: Post, tmp_path: Path) -> Post:
    let_in(tmp_path, f"https://{address(at)}", at.house.token, root_key=at.house.server.root_key)
    return at


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
@needs_signing
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
@needs_signing
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


@needs_signing
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


# Services that lie


def manifest(at: Post, **changes: Any) -> bytes:  # noqa: ANN401
    """What is published, with changes; `files` changes the first file."""
    assert at.store.published is not None
    content = json.loads(wire.dump(at.store.published.manifest))
    changes = dict(changes)
    content["releases"][0]["artifacts"][0]["files"][0] |= changes.pop("files", {})
    return signed(at, json.dumps(content | changes).encode())


def signed(at: Post, payload: bytes) -> bytes:
    """The payload in an envelope that the service has signed."""
    return bytes(keys(at).sign(payload))


def keys(at: Post) -> Any:  # noqa: ANN401
    """Those that the service signs with."""
    return operator.attrgetter("keys")(at.store)


@pytest.fixture
def liar(at: Post, tmp_path: Path) -> Iterator[LyingService]:
    """Has the pinned key and the true roots; says for the rest what a test tells it to."""
    with lying() as service:
        let_in(tmp_path, service.url, root_key=at.house.server.root_key)
        if SIGNS:
            says(service, "/v1/root/1", keys(at).root(1) or b"")
        service.answers["/v1/hello"] = lambda request: request.send(200, b"{}")
        yield service


def says(liar: LyingService, path: str, body: bytes, **headers: str) -> None:
    liar.answers[path] = lambda request: request.send(200, body, **headers)


@needs_signing
@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"path": "../../../evil"}},
        {"files": {"path": "/etc/evil"}},
        {"files": {"path": "evil\n"}},
        {"files": {"path": "a/../b"}},
        {"files": {"path": "a b; touch evil"}},
        {"files": {"path": "$(touch evil)"}},
        {"files": {"path": "-rf"}, "ok": True},
        {"files": {"sha256": "../../evil"}},
        {"files": {"size_bytes": -1}},
        {"files": {"size_bytes": 1.5}},
        {"files": {"size_bytes": "1; touch evil"}},
        {"files": {"magic": "zz"}},
        {"format": "idiolect-manifest/2"},
        {"repo": "aaaaaaaaaaaa"},
        {"repo": "../evil"},
        {"version": 0},
        {"version": 2**53},
        {"version": "1"},
        {"expires": "2020-01-01T00:00:00Z"},
        {"expires": "never"},
        {"channels": []},
        {"releases": [{"id": "$(touch evil)", "tier": "tiny", "artifacts": []}]},
    ],
    ids=json.dumps,
)
def test_manifests_that_are_not_taken(
    at: Post, publish: Callable[..., bytes], liar: LyingService, client: Client, tmp_path: Path, changes: dict[str, Any]
) -> None:
    data = publish(1)
    is_good = "ok" in changes
    says(liar, "/v1/manifest", manifest(at, **changes), ETag='"mv-1"')
    says(liar, f"/v1/blobs/sha256:{hashlib.sha256(data).hexdigest()}", data)
    done = client("pull", "android-futo", tmp_path / "model")
    assert done.returncode == (0 if is_good else 5), done.stderr + done.stdout
    assert (tmp_path / "model" / "current").exists() == is_good
    assert not list(tmp_path.rglob("evil"))
    assert "/v1/blobs/" not in "".join(request.path for request in liar.requests) or is_good


@needs_signing
def test_rollback_and_fork(
    at: Post, publish: Callable[..., bytes], liar: LyingService, client: Client, tmp_path: Path
) -> None:
    data = publish(1)
    says(liar, f"/v1/blobs/sha256:{hashlib.sha256(data).hexdigest()}", data)
    says(liar, "/v1/manifest", manifest(at, version=5))
    assert client("pull", "android-futo", tmp_path / "model").returncode == 0
    later = (wire.utc_now() + timedelta(days=3)).isoformat().replace("+00:00", "Z")
    for lie in (manifest(at, version=4), manifest(at, version=5, expires=later)):
        says(liar, "/v1/manifest", lie)
        done = client("pull", "android-futo", tmp_path / "model")
        assert done.returncode == 5
        assert "rollback" in done.stderr
    says(liar, "/v1/manifest", manifest(at, version=6))
    assert client("pull", "android-futo", tmp_path / "model").returncode == 0


@needs_signing
@pytest.mark.parametrize("lie", ["unsigned", "changed", "other type", "no signature", "other key", "other root", "cut"])
def test_signatures(
    at: Post, publish: Callable[..., bytes], liar: LyingService, client: Client, tmp_path: Path, lie: str
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    signing = importlib.import_module("idiolect.signing")
    data, good = publish(1), json.loads(manifest(at))
    payload = base64.b64decode(good["payload"])
    lies: dict[str, Callable[[], bytes]] = {
        "unsigned": lambda: payload,
        "changed": lambda: json.dumps(
            good | {"payload": base64.b64encode(payload.replace(b"android-futo", b"android-fut0")).decode()}
        ).encode(),
        "other type": lambda: json.dumps(good | {"payloadType": signing.ROOT_TYPE}).encode(),
        "no signature": lambda: json.dumps(good | {"signatures": []}).encode(),
        "other key": lambda: signing.sign(payload, signing.MANIFEST_TYPE, [Ed25519PrivateKey.generate()]),
        "other root": lambda: manifest(at),
        "cut": lambda: manifest(at)[:-20],
    }
    bad = lies[lie]()
    if lie == "other root":
        root = json.loads(base64.b64decode(json.loads(keys(at).root(1) or b"")["payload"]))
        key = Ed25519PrivateKey.generate()
        own = root | {"release_key": signing.public_of(key)}
        says(liar, "/v1/root/1", signing.sign(json.dumps(own).encode(), signing.ROOT_TYPE, [key]))
        bad = signing.sign(payload, signing.MANIFEST_TYPE, [key])
    says(liar, f"/v1/blobs/sha256:{hashlib.sha256(data).hexdigest()}", data)
    says(liar, "/v1/manifest", bad)
    done = client("pull", "android-futo", tmp_path / "model")
    assert done.returncode == 5, done.stderr
    assert not (tmp_path / "model" / "current").exists()
    let_in(tmp_path, liar.url)  # with a pairing of a service that signed nothing yet
    says(liar, "/v1/manifest", manifest(at))
    assert client("pull", "android-futo", tmp_path / "model").returncode == 5


CONFORMANCE = SCRIPT.parent.parent.parent / "tests" / "conformance" / "cases.json"
CASES = json.loads(CONFORMANCE.read_text(encoding="utf-8"))["cases"] if CONFORMANCE.exists() else []


@pytest.mark.skipif(not CASES, reason="there is no tests/conformance/cases.json here")
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_manifests_are_judged_as_by_every_client(client: Client, tmp_path: Path, case: dict[str, Any]) -> None:
    (tmp_path / "case.json").write_text(json.dumps(case))
    done = client("judge", tmp_path / "case.json")
    if case["verdict"] == "take":
        assert done.returncode == 0, done.stderr
        trust = json.loads(done.stdout)
        assert {name: trust[name] for name in case["then"]} == case["then"]
    else:
        assert (done.returncode, done.stdout) == (5, ""), done.stderr


@needs_signing
def test_new_keys_are_followed_and_old_ones_refused(
    paired: Post, publish: Callable[..., bytes], client: Client, tmp_path: Path
) -> None:
    publish(1)
    assert client("pull", "android-futo", tmp_path / "model").returncode == 0
    for root_too in (False, True, False):
        keys(paired).rotate(root_too=root_too)
    second = publish(2)
    done = client("pull", "android-futo", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == second
    trust = json.loads((tmp_path / "model" / ".idiolect" / "state.json").read_text())["trust"]
    assert (trust["root_version"], trust["root_key"]) == (4, paired.house.server.root_key)
    late = tmp_path / "late"  # paired only now: what was before its root key it neither can nor need check
    let_in(tmp_path, f"https://{address(paired)}", paired.house.token, root_key=paired.house.server.root_key)
    assert client("pull", "android-futo", late).returncode == 0


@needs_signing
def test_files_that_are_not_as_promised(
    at: Post, publish: Callable[..., bytes], liar: LyingService, client: Client, tmp_path: Path
) -> None:
    data = publish(1)
    blob = f"/v1/blobs/sha256:{hashlib.sha256(data).hexdigest()}"
    says(liar, "/v1/manifest", manifest(at))

    def endless(request: Request) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1 << 12):
            request.wfile.write(bytes(1 << 16))

    says(liar, blob, data[::-1])
    assert client("pull", "android-futo", tmp_path / "model").returncode == 4
    liar.answers[blob] = endless
    assert client("pull", "android-futo", tmp_path / "model").returncode == 4
    assert sum(path.stat().st_size for path in (tmp_path / "model").rglob("*") if path.is_file()) < 50_000
    says(liar, "/v1/manifest", manifest(at, files={"magic": "00000000"}, version=9))
    says(liar, blob, data)
    assert client("pull", "android-futo", tmp_path / "model").returncode == 5
    assert not (tmp_path / "model" / "current").exists()
    says(liar, "/v1/manifest", b"x" * 300_000)
    assert client("pull", "android-futo", tmp_path / "model").returncode in {4, 5}


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


@needs_signing
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
