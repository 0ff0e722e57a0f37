from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from daemon.sync import hub
from daemon.sync.devices import READ
from daemon.sync.pins import Kept
from daemon.sync.releases import Candidate, Published, ReleaseStore
from daemon.sync.server import Door
from idiolect.files import CHUNK_BYTES
from tests.daemon.sync.doors import PlainHouse, problem
from tests.daemon.sync.publishing import artifact, candidate, model_bytes, of
from tests.test_docs import PROTOCOL

REPOSITORY = "idiolect/browser-onnx"
FILES = {"config.json": b"{}\n", "onnx/encoder.onnx": model_bytes(1, 3_000_000), "onnx/decoder.onnx": model_bytes(2)}
WRITES = ("POST", "PUT", "PATCH", "DELETE")
TRAVERSALS = """
    ../repo_id ../../repo_id %2e%2e/repo_id %2e%2e%2frepo_id ..%5crepo_id onnx/../../repo_id /etc/passwd %2fetc/passwd
    //etc/passwd onnx/%00 config.json%00 config.json/ ./config.json CONFIG.JSON onnx onnx/ config.json/../../repo_id
    %252e%252e/repo_id C:%5cx ~/x current blobs ..;/repo_id config.json%20 config.json. config.json::$DATA
    %c0%ae%c0%ae/repo_id
""".split()


def onnx(folder: Path, files: dict[str, bytes] = FILES, format: str = "onnx") -> Candidate:
    """A release for browser-onnx, whose files lie in one folder, as its exporter writes them."""
    made = artifact(folder, {f"idiolect-base-int8/{path}": data for path, data in files.items()}, "browser-onnx")
    return of((made.model_copy(update={"format": format}), folder))


def commit_of(files: dict[str, bytes]) -> str:
    """What `sha256sum` prints of the files in the order of their names, hashed again."""
    listed = "".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files))
    return hashlib.sha256(listed.encode()).hexdigest()[:40]


async def test_snapshot_download(plain: PlainHouse, store: ReleaseStore, tmp_path: Path) -> None:
    hub_client = pytest.importorskip("huggingface_hub", reason="needs the [train] extra")

    def pull(revision: str, token: str = plain.token, into: str = "cache") -> Path:
        return Path(
            hub_client.snapshot_download(
                REPOSITORY, revision=revision, endpoint=plain.url, token=token, cache_dir=tmp_path / into
            )
        )

    store.publish(onnx(tmp_path / "1"))
    first = await asyncio.to_thread(pull, "main")
    assert first.name == commit_of(FILES)
    assert {str(path.relative_to(first)): path.read_bytes() for path in first.rglob("*") if path.is_file()} == FILES

    newer = FILES | {"onnx/decoder.onnx": model_bytes(3)}
    store.publish(onnx(tmp_path / "2", newer))
    second = await asyncio.to_thread(pull, "main")
    assert second.name == commit_of(newer)
    assert (second / "onnx/decoder.onnx").read_bytes() == newer["onnx/decoder.onnx"]
    assert (second / "onnx/encoder.onnx").resolve() == (first / "onnx/encoder.onnx").resolve()  # was there already
    assert (await asyncio.to_thread(pull, first.name, into="other")).name == first.name  # the old one is still kept
    if sys.platform == "linux" and (command := re.search(r"^find -L .*$", PROTOCOL, re.MULTILINE)):
        printed = await asyncio.to_thread(subprocess.check_output, command[0], shell=True, cwd=second, text=True)
        assert printed.strip() == second.name  # as the documentation has it

    for token, error in (
        ("idl_" + "x" * 43, hub_client.errors.HfHubHTTPError),
        (plain.home.token, hub_client.errors.LocalEntryNotFoundError),  # for TLS only: a 403, which it puts so
    ):
        with pytest.raises(error):
            await asyncio.to_thread(pull, "main", token, "nobody's")
    assert not list(tmp_path.glob("nobody's/**/*.onnx"))


async def test_what_huggingface_hub_lists_and_may_not_write(
    plain: PlainHouse, store: ReleaseStore, tmp_path: Path
) -> None:
    hub_client = pytest.importorskip("huggingface_hub", reason="needs the [train] extra")
    store.publish(onnx(tmp_path / "1"))
    api = hub_client.HfApi(endpoint=plain.url, token=plain.token)
    info = await asyncio.to_thread(api.model_info, REPOSITORY, files_metadata=True)
    assert (info.id, info.sha, info.private) == (REPOSITORY, commit_of(FILES), True)
    assert info.last_modified == store.manifest.releases[0].created if store.manifest else None
    assert {each.rfilename: each.lfs.sha256 for each in info.siblings} == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    for folder, is_recursive, expected in (
        (None, False, ["config.json", "onnx"]),
        (None, True, sorted([*FILES, "onnx"])),
        ("onnx", False, ["onnx/decoder.onnx", "onnx/encoder.onnx"]),
    ):
        found = await asyncio.to_thread(
            lambda at, all: list(api.list_repo_tree(REPOSITORY, at, recursive=all)), folder, is_recursive
        )
        assert [each.path for each in found] == expected
    for call, error in (
        (lambda: api.model_info("idiolect/other"), hub_client.errors.RepositoryNotFoundError),
        (lambda: api.model_info("openai/whisper-tiny"), hub_client.errors.RepositoryNotFoundError),
        (lambda: api.model_info(REPOSITORY, revision="v1"), hub_client.errors.RevisionNotFoundError),
        (lambda: list(api.list_repo_tree(REPOSITORY, "tokenizer")), hub_client.errors.EntryNotFoundError),
        (lambda: api.hf_hub_download(REPOSITORY, "x.bin", cache_dir=tmp_path), hub_client.errors.EntryNotFoundError),
        (
            lambda: api.upload_file(path_or_fileobj=b"x", path_in_repo="x.bin", repo_id=REPOSITORY),
            hub_client.errors.HfHubHTTPError,
        ),
        (lambda: api.delete_repo(REPOSITORY), hub_client.errors.HfHubHTTPError),
    ):
        with pytest.raises(error):
            await asyncio.to_thread(call)


async def test_whisperkit(plain: PlainHouse, store: ReleaseStore, tmp_path: Path) -> None:
    """What `WhisperKitConfig(model: "tiny", modelRepo:, modelEndpoint:, modelToken:)` asks: the files' names,
    and for each, one after another, a HEAD and a GET that a later try continues."""
    weights = model_bytes(4, 300_000)
    files = {
        "config.json": b"{}",
        "AudioEncoder.mlpackage/Manifest.json": b"{}",
        "AudioEncoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin": weights,
    }
    made = artifact(
        tmp_path / "1", {f"idiolect_whisper-tiny/{path}": data for path, data in files.items()}, "iphone-whisperkit"
    )
    store.publish(of((made.model_copy(update={"format": "coreml"}), tmp_path / "1")))
    status, _, body = await plain.ask("/api/models/idiolect/iphone-whisperkit/revision/main", "Accept: */*")
    assert status == 200
    names = [each["rfilename"] for each in json.loads(body)["siblings"]]
    assert names == sorted(f"idiolect_whisper-tiny/{path}" for path in files)  # it looks for a folder called *tiny
    for name in names:
        data = files[name.removeprefix("idiolect_whisper-tiny/")]
        at = f"/idiolect/iphone-whisperkit/resolve/main/{name}"
        status, head, body = await plain.ask(at, "Accept-Encoding: identity", method="HEAD")
        assert (status, body) == (200, b"")
        assert len(head["X-Repo-Commit"]) == 40
        assert head["X-Linked-Etag"].strip('"') == hashlib.sha256(data).hexdigest()
        assert int(head["X-Linked-Size"]) == int(head["Content-Length"]) == len(data)
        assert (await plain.ask(at))[2] == data
        if data == weights:
            status, head, body = await plain.ask(at, "Range: bytes=100000-")
            assert (status, body) == (206, weights[100_000:])
    # Without `model:` it asks for a list of devices first, and does without where there is none.
    assert (await plain.ask("/idiolect/iphone-whisperkit/resolve/main/config.json", method="HEAD"))[0] == 404


async def test_a_branch_stays_what_it_was_while_its_files_are_fetched(
    plain: PlainHouse, store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, path = FILES | {"onnx/decoder.onnx": model_bytes(3)}, "onnx/decoder.onnx"
    store.publish(onnx(tmp_path / "1"))
    assert (await plain.ask(f"/api/models/{REPOSITORY}/revision/main"))[0] == 200
    store.publish(onnx(tmp_path / "2", newer))
    at = f"/{REPOSITORY}/resolve/main/{path}"
    status, headers, body = await plain.ask(at)
    assert (status, headers["X-Repo-Commit"], body) == (200, commit_of(FILES), FILES[path])
    _, other = plain.home.devices.add("other", "plain", frozenset({READ}), compat=True)
    assert (await plain.ask(at, token=other))[2] == newer[path]  # who did not ask gets the newest
    assert (await plain.ask(f"/api/models/{REPOSITORY}/revision/main"))[0] == 200
    assert (await plain.ask(at))[2] == newer[path]  # asked again
    store.publish(onnx(tmp_path / "3"))
    monkeypatch.setattr(hub, "LISTED_S", 0.0)
    assert (await plain.ask(at))[2] == FILES[path]  # a while later


async def test_headers_of_a_file(plain: PlainHouse, store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(onnx(tmp_path / "1"))
    for revision, is_kept in (("main", False), (commit_of(FILES), True)):
        status, headers, body = await plain.ask(f"/{REPOSITORY}/resolve/{revision}/onnx/encoder.onnx?download=true")
        assert (status, body) == (200, FILES["onnx/encoder.onnx"])
        assert headers["X-Repo-Commit"] == commit_of(FILES)
        assert ("immutable" in headers["Cache-Control"]) is is_kept
        known = f"If-None-Match: {headers['ETag']}"
        status, headers, body = await plain.ask(f"/{REPOSITORY}/resolve/{revision}/onnx/encoder.onnx", known)
        assert (status, body, headers["X-Repo-Commit"]) == (304, b"", commit_of(FILES))


@pytest.mark.slow
@pytest.mark.parametrize("plain_door", [Door("desk", "127.0.0.1", 0, plain_port=0, bytes_per_s=8e6)])
async def test_who_asks_for_everything_at_once_waits(plain: PlainHouse, store: ReleaseStore, tmp_path: Path) -> None:
    files = {f"{i}.bin": model_bytes(i, 2 * CHUNK_BYTES) for i in range(8)}
    store.publish(onnx(tmp_path / "1", files))
    answers = await asyncio.gather(*(plain.ask(f"/{REPOSITORY}/resolve/main/{path}") for path in files))
    assert [(status, body) for status, _, body in answers] == [(200, data) for data in files.values()]


async def test_but_not_for_long(
    plain: PlainHouse, store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SLOT_WAIT_S", 0.2)
    monkeypatch.setattr(plain.home.server._pace.slots, "total", 0)
    store.publish(onnx(tmp_path / "1"))
    answer = await plain.ask(f"/{REPOSITORY}/resolve/main/config.json")
    assert (answer[0], answer[1]["Retry-After"]) == (503, "2")
    assert problem(answer)


async def test_only_who_may_read_and_nothing_but_reading(
    plain: PlainHouse, store: ReleaseStore, tmp_path: Path
) -> None:
    store.publish(onnx(tmp_path / "1"))
    paths = [
        f"/api/models/{REPOSITORY}",
        f"/api/models/{REPOSITORY}/revision/main",
        f"/api/models/{REPOSITORY}/tree/main",
        f"/api/models/{REPOSITORY}/tree/main/onnx",
        f"/{REPOSITORY}/resolve/main/config.json",
    ]
    for path in paths:
        assert (await plain.ask(path))[0] == 200
        assert (await plain.ask(path, token=""))[0] == 401
        assert (await plain.ask(path, token=plain.home.token))[0] == 403
        for method in WRITES:
            assert (await plain.ask(path, method=method, body=b"{}"))[0] == 405
    for path in (
        f"/api/models/{REPOSITORY}/commit/main",
        f"/api/models/{REPOSITORY}/preupload/main",
        "/api/repos/create",
    ):
        assert (await plain.ask(path, method="POST", body=b"{}"))[0] == 404


async def test_no_other_file_can_be_had(plain: PlainHouse, store: ReleaseStore, tmp_path: Path) -> None:
    store.publish(onnx(tmp_path / "1"))
    for path in TRAVERSALS:
        for at in (
            f"/{REPOSITORY}/resolve/main/{path}",
            f"/{REPOSITORY}/resolve/{path}/x",
            f"/{path}/x/resolve/main/y",
        ):
            for asked in (at, f"/api/models{at}".replace("/resolve/", "/tree/")):
                status, _, body = await plain.ask(asked)
                listed = (
                    [each["path"] for each in json.loads(body)] if status == 200 and "/tree/main/onnx" in asked else []
                )
                assert status in {400, 404} or (listed and set(listed) <= FILES.keys()), asked
                assert store.repo.encode() not in body


def test_revisions(store: ReleaseStore, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        store.publish(candidate(tmp_path / str(seed), seed))
    assert store.published is not None

    def names(revision: str, profile: str = "android-futo", **changes: object) -> str:
        manifest = Kept.model_validate(store.published.manifest.model_dump() | changes)  # type: ignore[union-attr]
        return hub.find(Published(manifest, b"", {}, frozenset()), f"idiolect/{profile}", revision).release.id

    channels = {"tiny": {"stable": "r-0001", "beta": "r-0002"}}
    assert names("main") == "r-0003"
    assert names("main", channels=channels) == "r-0001"  # as after a roll-back
    assert names("beta", channels=channels) == "r-0002"
    assert hub.find(store.published, "idiolect/android-futo", "main").repository == "idiolect/android-futo"
    commits = [hub.Snapshot.of(each, each.artifacts[0]).commit for each in store.published.manifest.releases]
    assert [names(commit) for commit in commits] == ["r-0003", "r-0002", "r-0001"]
    for revision, changes in (
        ("stable", {}),
        ("", {}),
        (commits[0][:12], {}),
        (commits[0], {"withdrawn": ["r-0003"]}),
        ("main", {"withdrawn": ["r-0003"]}),
        ("main", {"channels": {}}),
    ):
        with pytest.raises(web.HTTPNotFound) as raised:
            names(revision, **changes)
        assert raised.value.headers["X-Error-Code"] == "RevisionNotFound"
    with pytest.raises(web.HTTPNotFound) as raised:
        names("main", profile="p7")
    assert raised.value.headers["X-Error-Code"] == "RepoNotFound"


def test_the_commit_is_that_of_the_files_alone(tmp_path: Path) -> None:
    release = of((artifact(tmp_path, {"a": b"1", "b/c": b"2"}), tmp_path))
    made = release.artifacts[0][0]
    assert hub.Snapshot.of(None, made).commit == commit_of({"a": b"1", "b/c": b"2"})  # type: ignore[arg-type]
    turned = made.model_copy(update={"files": made.files[::-1], "quantization": "q5_0"})
    assert hub.Snapshot.of(None, turned).commit == hub.Snapshot.of(None, made).commit  # type: ignore[arg-type]
