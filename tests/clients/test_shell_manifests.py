"""The client for shells before services that lie, and the manifests that every client judges alike."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from idiolect import signing, wire
from tests.clients.shells import (
    SCRIPT,
    Client,
    address,
    let_in,
    needs_its_tools,
)
from tests.daemon.sync.post import Post
from tests.idiolect.services import LyingService, Request, lying

pytestmark = [pytest.mark.slow, needs_its_tools]
CONFORMANCE = SCRIPT.parent.parent.parent / "tests" / "conformance" / "cases.json"
CASES = json.loads(CONFORMANCE.read_text(encoding="utf-8"))["cases"]


def manifest(at: Post, **changes: Any) -> bytes:  # noqa: ANN401
    """What is published, with changes; `files` changes the first file."""
    assert at.store.published is not None
    content = json.loads(wire.dump(at.store.published.manifest))
    changes = dict(changes)
    content["releases"][0]["artifacts"][0]["files"][0] |= changes.pop("files", {})
    return signed(at, json.dumps(content | changes).encode())


def signed(at: Post, payload: bytes) -> bytes:
    """The payload in an envelope that the service has signed."""
    return at.store.keys.sign(payload)


@pytest.fixture
def liar(at: Post, tmp_path: Path) -> Iterator[LyingService]:
    """Has the pinned key and the true roots; says for the rest what a test tells it to."""
    with lying() as service:
        let_in(tmp_path, service.url, root_key=at.house.server.root_key)
        says(service, "/v1/root/1", at.store.keys.root(1) or b"")
        service.answers["/v1/hello"] = lambda request: request.send(200, b"{}")
        yield service


def says(liar: LyingService, path: str, body: bytes, **headers: str) -> None:
    liar.answers[path] = lambda request: request.send(200, body, **headers)


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


@pytest.mark.parametrize("lie", ["unsigned", "changed", "other type", "no signature", "other key", "other root", "cut"])
def test_signatures(
    at: Post, publish: Callable[..., bytes], liar: LyingService, client: Client, tmp_path: Path, lie: str
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
        root = json.loads(base64.b64decode(json.loads(at.store.keys.root(1) or b"")["payload"]))
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


def test_new_keys_are_followed_and_old_ones_refused(
    paired: Post, publish: Callable[..., bytes], client: Client, tmp_path: Path
) -> None:
    publish(1)
    assert client("pull", "android-futo", tmp_path / "model").returncode == 0
    for root_too in (False, True, False):
        paired.store.keys.rotate(root_too=root_too)
    second = publish(2)
    done = client("pull", "android-futo", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "current" / "idiolect-tiny-android-futo.bin").read_bytes() == second
    trust = json.loads((tmp_path / "model" / ".idiolect" / "state.json").read_text())["trust"]
    assert (trust["root_version"], trust["root_key"]) == (4, paired.house.server.root_key)
    late = tmp_path / "late"  # paired only now: what was before its root key it neither can nor need check
    let_in(tmp_path, f"https://{address(paired)}", paired.house.token, root_key=paired.house.server.root_key)
    assert client("pull", "android-futo", late).returncode == 0


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
