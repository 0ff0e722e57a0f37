from __future__ import annotations

import hashlib
import json
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.sync.keys import Keys
from daemon.sync.releases import ReleaseStore
from idiolect import install, wire
from idiolect.client import Client
from idiolect.errors import (
    ModelRefused,
    SyncError,
    TransferFailed,
    VerificationFailed,
)
from idiolect.pairing import Pairings
from tests.daemon.sync.publishing import artifact, model_bytes, of
from tests.idiolect.pulls import SIZE, content, copy_manifest, everything, hidden, tell
from tests.idiolect.services import LyingService, Request, through_a_cable

pytestmark = pytest.mark.usefixtures("impatient")


def test_first_and_next_pull(url: str, publish: Callable[..., bytes], into: Path) -> None:
    first = publish(1)
    client = Client(into, "android-futo", url=url)
    told: list[tuple[int, int]] = []
    pulled = client.pull(lambda done, total: told.append((done, total)))
    assert (pulled.release_id, pulled.tier, pulled.version, pulled.changed) == ("r-0001", "tiny", 1, True)
    assert pulled.previous is None
    assert pulled.url == url
    assert [path.read_bytes() for path in pulled.files] == [first]
    assert pulled.files == [into / "idiolect-tiny-android-futo.bin"]
    assert told == sorted(told)
    assert told[-1] == (SIZE, SIZE)
    assert into.is_symlink()
    assert stat.S_IMODE((hidden(into) / "state.json").stat().st_mode) == 0o600

    again = client.pull()
    assert (again.release_id, again.changed, again.files) == ("r-0001", False, pulled.files)

    second = publish(2)
    newer = client.pull()
    assert (newer.release_id, newer.changed, newer.version) == ("r-0002", True, 2)
    assert newer.files[0].read_bytes() == second
    assert newer.previous is not None
    assert (newer.previous / "idiolect-tiny-android-futo.bin").read_bytes() == first

    publish(3)
    assert client.pull().previous != newer.previous
    assert not newer.previous.exists()
    assert len([path for path in hidden(into).iterdir() if path.name.startswith("r-")]) == 2
    assert list((hidden(into) / "parts").iterdir()) == []


def test_nothing_new_is_one_small_request(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    with through_a_cable(url) as cable:
        client = Client(into, "android-futo", url=cable.url)
        client.pull()
        seen, requests = cable.answer_bytes, len(cable.requests)
        before = everything(into.parent)
        assert not client.pull().changed
        assert len(cable.requests) == requests + 1
        assert cable.answer_bytes - seen < 500
    assert everything(into.parent) == before


@pytest.mark.slow
def test_another_tier_or_a_renewal_changes_nothing(
    url: str, store: ReleaseStore, publish: Callable[..., bytes], into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    client = Client(into, "android-futo", url=url)
    client.pull()
    later = wire.utc_now() + timedelta(days=8)
    monkeypatch.setattr(wire, "utc_now", lambda: later)
    assert store.renew()
    pulled = client.pull()
    assert (pulled.version, pulled.release_id, pulled.changed) == (2, "r-0001", False)


def test_a_broken_transfer_goes_on_at_the_next_pull(url: str, publish: Callable[..., bytes], into: Path) -> None:
    first = publish(1)
    Client(into, "android-futo", url=url).pull()
    second = publish(2, size_bytes=2_000_000)
    with through_a_cable(url) as cable:
        client = Client(into, "android-futo", url=cable.url)
        cable.cuts = [1 << 40, 1_000_000, *[0] * 20]
        with pytest.raises(TransferFailed, match="of 2000000 bytes are here"):
            client.pull()
        assert (into / "idiolect-tiny-android-futo.bin").read_bytes() == first
        (part,) = (hidden(into) / "parts").iterdir()
        kept = part.stat().st_size
        assert kept > 0
        cable.cuts = []
        assert client.pull().files[0].read_bytes() == second
        assert f"Range: bytes={kept}-".encode() in cable.requests[-1]


@pytest.mark.slow
def test_killed_at_random_moments(url: str, publish: Callable[..., bytes], into: Path) -> None:
    """A pull in a second process is killed again and again; the old model stays whole, then the new one comes."""
    first = publish(1)
    Client(into, "android-futo", url=url).pull()
    second = publish(2, size_bytes=30_000_000)
    code = f"from idiolect import Client; Client({str(into)!r}, 'android-futo', url={url!r}).pull()"
    model = into / "idiolect-tiny-android-futo.bin"
    kills = 0
    for pause_s in (0.0, 0.005, 0.01, 0.02, 0.04):
        process = subprocess.Popen([sys.executable, "-c", code])
        parts = hidden(into) / "parts"
        while process.poll() is None and not any(path.stat().st_size for path in parts.iterdir()):
            time.sleep(0.001)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert model.read_bytes() in (first, second)
    assert kills
    assert Client(into, "android-futo", url=url).pull().files[0].read_bytes() == second


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"version": 1}, "rollback: manifest 1 is offered and 2 was seen before"),
        ({"channels": {}}, "fork: manifest 2 was changed after it was published"),
        ({"version": 3, "repo": "aaaaaaaaaaaa"}, "a manifest of service aaaaaaaaaaaa, wanted was one of"),
        ({"version": 3, "expires": "2020-01-01T00:00:00Z"}, "expired on 2020-01-01 00:00 UTC"),
        ({"version": 3, "expires": "2120-01-01T00:00:00"}, "is not a manifest"),
        ({"version": 2**53}, "is not a manifest"),
        ({"version": 3, "format": "idiolect-manifest/2"}, "is not a manifest"),
        ({"version": 3, "root_version": 2}, "root 2 cannot be had: it answers 404"),
        ({"version": 3, "root_version": 2**53 - 1}, f"is of root {2**53 - 1}, 1 was seen before"),
        ({"version": 3, "padding": "x" * wire.MAX_MANIFEST_BYTES}, "more than 262144 bytes"),
    ],
    ids="rollback fork repo expired naive-time overflow format root many-roots too-large".split(),
)
@pytest.mark.slow
def test_manifests_that_are_refused(
    store: ReleaseStore,
    url: str,
    publish: Callable[..., bytes],
    into: Path,
    liar: LyingService,
    update: dict[str, object],
    message: str,
) -> None:
    publish(1)
    publish(2)
    Client(into, "android-futo", url=url).pull()
    before = everything(into.parent)
    publish(3)
    copy_manifest(store, liar, **({"version": 2} | update))
    liar.answers["/v1/root/2"] = lambda request: request.send(404)
    with pytest.raises(VerificationFailed, match=message) as caught:
        Client(into, "android-futo", url=liar.url).pull()
    assert liar.url in caught.value.message
    assert everything(into.parent) == before
    assert Client(into, "android-futo", url=url).pull().release_id == "r-0003"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["unsigned", "another key", "another type", "changed", "no root", "another root", "not told"]
)
def test_who_may_sign(
    store: ReleaseStore,
    url: str,
    publish: Callable[..., bytes],
    into: Path,
    liar: LyingService,
    tmp_path: Path,
    kind: str,
) -> None:
    """A first pull, so that nothing was seen before: only what the root key from pairing vouches for is believed."""
    publish(1)
    copy_manifest(store, liar)
    other = Keys(tmp_path / "other", store.repo)
    payload = json.dumps(content(store)).encode()
    assert store.published is not None
    envelope = store.published.envelope
    signature = json.loads(envelope)["signatures"]
    changed = json.loads(other.sign(payload.replace(b"tiny", b"tinY"))) | {"signatures": signature}
    lies = {
        "unsigned": payload,
        "another key": other.sign(payload),
        "another type": envelope.replace(b".manifest+json", b".root+json"),
        "changed": json.dumps(changed).encode(),
    }
    tell(liar, lies.get(kind, envelope))
    if kind == "no root":
        liar.answers["/v1/root/1"] = lambda request: request.send(404)
    if kind == "another root":
        root = other.root(1)
        assert root is not None
        liar.answers["/v1/root/1"] = lambda request: request.send(200, root)
    if kind == "not told":
        (mine,) = Pairings().all()
        Pairings().save(mine.model_copy(update={"root_key": ""}))
    messages = {
        "unsigned": "not a signed document",
        "another type": "manifest.json was wanted",
        "changed": "is not a manifest|the signature is not of the key",
        "no root": "root 1 cannot be had: it answers 404",
        "another root": "no root of this service is signed by the key from pairing",
        "not told": "not told at pairing whose manifests to believe",
    }
    with pytest.raises(VerificationFailed, match=messages.get(kind, "the signature is not of the key")):
        Client(into, "android-futo", url=liar.url).pull()
    assert set(everything(into.parent)) == {".current.idiolect/lock"}


def test_after_new_keys(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, liar: LyingService, tmp_path: Path
) -> None:
    """Devices follow, from the roots they know and from their pairing; what the old key signs is worth nothing."""
    publish(1)
    Client(into, "android-futo", url=url).pull()
    assert store.published is not None
    old, stolen = store.published.envelope, tmp_path / "stolen"
    shutil.copytree(tmp_path / "store" / "keys", stolen)
    for root_too in (False, True):
        store.rotate(root_too=root_too)
        publish(2 + root_too)
        assert Client(into, "android-futo", url=url).pull().changed
    late = into.with_name("late")
    assert Client(late, "android-futo", url=url).pull().release_id == "r-0003"
    copy_manifest(store, liar)
    tell(liar, old)
    with pytest.raises(VerificationFailed, match="rollback: the manifest is of root 1, 3 was seen before"):
        Client(into, "android-futo", url=liar.url).pull()
    tell(liar, Keys(stolen, store.repo).sign(json.dumps(content(store) | {"version": 99}).encode()))
    with pytest.raises(VerificationFailed, match="the signature is not of the key"):
        Client(into, "android-futo", url=liar.url).pull()


def test_a_version_driven_up_is_reset_by_new_keys(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    """Somebody had the release key: devices saw the highest version there is, and come back without being reset."""
    publish(1)
    copy_manifest(store, liar, version=wire.MAX_INTEGER)
    Client(into, "android-futo", url=liar.url).pull()
    publish(2)
    with pytest.raises(VerificationFailed, match="rollback: manifest 2 is offered"):
        Client(into, "android-futo", url=url).pull()
    store.rotate()
    pulled = Client(into, "android-futo", url=url).pull()
    assert (pulled.release_id, pulled.version) == ("r-0002", 3)


def test_a_restored_backup_can_be_accepted(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    publish(1)
    publish(2)
    Client(into, "android-futo", url=url).pull()
    copy_manifest(store, liar, version=1)
    with pytest.raises(VerificationFailed) as caught:
        Client(into, "android-futo", url=liar.url).pull()
    assert "idiolect rotate-keys" in caught.value.hint
    state = hidden(into) / "state.json"
    assert str(state) in caught.value.hint
    state.unlink()
    assert Client(into, "android-futo", url=liar.url).pull().version == 1


def test_wrong_bytes_never_arrive(
    store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    first = publish(1)
    Client(into, "android-futo", url=url).pull()
    second = publish(2)
    copy_manifest(store, liar)
    blob = f"/v1/blobs/sha256:{hashlib.sha256(second).hexdigest()}"
    good = liar.answers[blob]
    liar.answers[blob] = lambda request: request.send(200, second[:-1] + b"!")
    client = Client(into, "android-futo", url=liar.url)
    with pytest.raises(VerificationFailed, match="SHA-256"):
        client.pull()
    assert (into / "idiolect-tiny-android-futo.bin").read_bytes() == first
    assert list((hidden(into) / "parts").iterdir()) == []
    liar.answers[blob] = good
    assert client.pull().files[0].read_bytes() == second  # although this manifest was seen before


def test_paths_cannot_leave_the_folder(
    store: ReleaseStore, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    publish(1)
    for path in ("../../x", "/etc/x", "a/../x", "a\\..\\x", "c:x", "", ".", "a//b", "ü", "a" * 81):
        manifest = content(store)
        manifest["releases"][0]["artifacts"][0]["files"][0]["path"] = path
        tell(liar, store.keys.sign(json.dumps(manifest).encode()))
        with pytest.raises(VerificationFailed, match="is not a manifest"):
            Client(into, "android-futo", url=liar.url).pull()
    assert set(everything(into.parent)) == {".current.idiolect/lock"}


def test_an_artifact_of_many_files(url: str, store: ReleaseStore, tmp_path: Path, into: Path) -> None:
    """Unchanged files are not fetched again, files of equal content are fetched once."""
    files = {"model/weights.bin": model_bytes(1), "model/config.json": b"{}", "a/b/same.json": b"{}", "empty": b""}
    store.publish(of((artifact(tmp_path / "one", files), tmp_path / "one")))
    with through_a_cable(url) as cable:
        client = Client(into, "android-futo", url=cable.url)
        client.pull()
        assert {name: (into / name).read_bytes() for name in files} == files
        files |= {"model/config.json": b"[1]"}
        store.publish(of((artifact(tmp_path / "two", files), tmp_path / "two")))
        cable.requests.clear()
        pulled = client.pull()
        assert len(cable.requests) == 2
        assert {path.relative_to(into).as_posix(): path.read_bytes() for path in pulled.files} == files


def test_going_back_fetches_nothing(store: ReleaseStore, url: str, publish: Callable[..., bytes], into: Path) -> None:
    """The version before is still here, and its files are taken from there."""
    first, second = publish(1), publish(2)
    with through_a_cable(url) as cable:
        client = Client(into, "android-futo", url=cable.url)
        assert client.pull().files[0].read_bytes() == second
        store.rollback("tiny")
        assert client.pull().files[0].read_bytes() == first
        cable.requests.clear()
        store.rollback("tiny", "r-0002")
        pulled = client.pull()
        assert (pulled.release_id, pulled.changed, pulled.files[0].read_bytes()) == ("r-0002", True, second)
        assert [request.split()[1] for request in cable.requests] == [b"/v1/manifest"]


def test_a_model_that_the_app_cannot_use(
    store: ReleaseStore, publish: Callable[..., bytes], into: Path, liar: LyingService
) -> None:
    """It is never in place; it is tried again when something else was published, and not fetched again for that."""
    reports: list[dict[str, Any]] = []
    tried: list[bytes] = []

    def hear(request: Request) -> None:
        reports.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        request.send(204)

    def check(folder: Path) -> None:
        (model,) = folder.glob("*.bin")
        tried.append(model.read_bytes())
        assert (into / model.name).read_bytes() == first if len(tried) > 1 else not into.exists()
        if len(tried) == 2:
            raise MemoryError("too large")

    def offer(*seeds: int) -> bytes:
        data = publish(*seeds)
        copy_manifest(store, liar)
        liar.answers["/v1/reports"] = hear
        return data

    client = Client(into, "android-futo", url=liar.url, check=check)
    first = offer(1)
    assert client.pull().changed
    second = offer(2)
    with pytest.raises(ModelRefused, match="r-0002 cannot be used here: MemoryError: too large"):
        client.pull()
    assert (into / "idiolect-tiny-android-futo.bin").read_bytes() == first
    assert {path.name for path in hidden(into).glob("r-*")} == {into.readlink().name}
    sent = [(each["release"], each.get("loaded")) for each in reports]
    assert sent == [("r-0001", True), ("r-0002", False)]
    assert reports[1]["error"].endswith("MemoryError: too large")
    liar.requests.clear()
    offer(2, 9)  # the same file in another release
    assert client.pull().files[0].read_bytes() == second
    assert not [request for request in liar.requests if "/v1/blobs/" in request.path]
    assert reports[-1]["loaded"] is True


def test_a_model_that_was_refused_waits_for_news(url: str, publish: Callable[..., bytes], into: Path) -> None:
    first = publish(1)
    client = Client(into, "android-futo", url=url)
    client.pull()
    publish(2)
    with pytest.raises(ModelRefused, match="ZeroDivisionError"):
        Client(into, "android-futo", url=url, check=lambda _: 1 / 0).pull()
    pulled = Client(into, "android-futo", url=url, check=lambda _: pytest.fail("the same manifest")).pull()
    assert (pulled.release_id, pulled.changed, pulled.files[0].read_bytes()) == ("r-0001", False, first)


def test_what_is_missing_or_damaged_comes_back(url: str, publish: Callable[..., bytes], into: Path) -> None:
    model = publish(1)
    client = Client(into, "android-futo", url=url)
    (path,) = client.pull().files
    path.unlink()
    assert client.pull().changed
    assert path.read_bytes() == model
    into.unlink()
    assert client.pull().changed
    assert path.read_bytes() == model


def test_another_profile_or_channel(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1, 2)
    Client(into, "android-futo", url=url).pull()
    pulled = Client(into, "desktop-whispercpp", url=url).pull()
    assert (pulled.changed, pulled.profile) == (True, "desktop-whispercpp")
    assert pulled.files[0].read_bytes() == model_bytes(2, SIZE)
    with pytest.raises(SyncError, match="no stable model for the profile 'iphone'") as caught:
        Client(into, "iphone", url=url).pull()
    assert "android-futo, desktop-whispercpp" in caught.value.hint
    with pytest.raises(SyncError, match="no beta model"):
        Client(into, "android-futo", url=url, channel="beta").pull()
    assert pulled.files[0].exists()


def test_nothing_published_yet(url: str, into: Path) -> None:
    with pytest.raises(TransferFailed, match="nothing has been published yet"):
        Client(into, "android-futo", url=url).pull()


def test_versions_describe_themselves(url: str, publish: Callable[..., bytes], into: Path) -> None:
    publish(1)
    Client(into, "android-futo", url=url).pull()
    version = install.Place(into).installed()
    assert version is not None
    assert version.files == {"idiolect-tiny-android-futo.bin": SIZE}
