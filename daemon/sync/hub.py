"""The Hugging Face Hub's read routes, so that programs which know that hub take their model from this house.

A repository is `idiolect/<profile>`; its revision `main` is the stable release and `beta` the beta one. A commit is the
start of the SHA-256 of the file list as `sha256sum` would print it, so that equal files are an equal commit. Which
routes and headers: huggingface_hub `hf_api.py` and `file_download.py`, WhisperKit `HubApi.swift`, transformers.js
`hub.js`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field, RootModel

from daemon.sync import blobs
from daemon.sync.devices import READ
from daemon.sync.guard import DEVICE, Route
from daemon.sync.releases import Published, ReleaseStore
from idiolect.wire import Artifact, ArtifactFile, Release, Sha256

NAMESPACE = "idiolect"
REVISIONS = {"main": "stable", "beta": "beta"}
SLOT_WAIT_S = 8.0
"""Such clients ask for eight files at once and wait ten seconds for a first byte; a refusal they take less well."""
LISTED_S = 300.0
"""For so long a branch stays what it was when its files were listed, for the device that asked: WhisperKit fetches them
one by one from the branch, and a publication in the middle would give it files of two releases."""
_WHOLE_FOLDERS = frozenset({"coreml"})
"""Formats whose files keep their folder: WhisperKit knows a model by its name. Others look in the root."""
_POINTER_BYTES = 134

_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class HubLfs(BaseModel):
    """How the hub states a file's digest; `oid` in listings, `sha256` in a model's files."""

    oid: Sha256
    sha256: Sha256
    size: int
    pointerSize: int = _POINTER_BYTES


class HubSibling(BaseModel):
    """One file of a repository."""

    rfilename: str
    size: int
    lfs: HubLfs


class HubModel(BaseModel):
    """What a repository is at a revision."""

    id: str
    modelId: str
    sha: _Commit
    lastModified: str
    private: Literal[True] = True
    gated: Literal[False] = False
    disabled: Literal[False] = False
    downloads: int = 0
    likes: int = 0
    tags: list[str]
    pipeline_tag: str = "automatic-speech-recognition"
    siblings: list[HubSibling]


class HubEntry(BaseModel):
    """A file, or a folder (its size is 0), in a listing; `oid` changes when what is in it does."""

    type: Literal["file", "directory"]
    oid: _Commit
    size: int
    path: str
    lfs: HubLfs | None = None


class HubTree(RootModel[list[HubEntry]]):
    """What lies in a folder of a repository."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit: its files by their path in it."""

    repository: str
    commit: str
    release: Release
    artifact: Artifact
    files: Mapping[str, ArtifactFile]

    @classmethod
    def of(cls, release: Release, artifact: Artifact) -> Snapshot:
        """The repository's state that an artifact is."""
        files = _by_path(artifact)
        listed = "".join(f"{file.sha256}  {path}\n" for path, file in files.items())
        commit = hashlib.sha256(listed.encode()).hexdigest()[:40]
        return cls(f"{NAMESPACE}/{artifact.profile}", commit, release, artifact, files)


def find(published: Published | None, repository: str, revision: str) -> Snapshot:
    """The state of `repository` at a branch or commit. Raises HTTPNotFound."""
    namespace, _, profile = repository.partition("/")
    manifest = published.manifest if published else None
    withdrawn = set(manifest.withdrawn) if manifest else set()
    snapshots = [
        Snapshot.of(release, artifact)
        for release in (manifest.releases if manifest else ())
        if namespace == NAMESPACE and release.id not in withdrawn and (artifact := release.artifact(profile))
    ]
    if manifest is None or not snapshots:
        raise _missing("RepoNotFound", "no release has a model for this kind of device")
    current = manifest.current(profile, REVISIONS.get(revision, ""))
    for snapshot in snapshots:
        if snapshot.commit == revision or (current and snapshot.release.id == current[0].id):
            return snapshot
    raise _missing("RevisionNotFound", f"not {' or '.join(REVISIONS)} with a release, nor a commit that is still kept")


class Hub:
    """Answers for `store`, with its files sent at `pace`."""

    def __init__(self, store: ReleaseStore, pace: blobs.Pace) -> None:
        self._store = store
        self._pace = pace
        self._listed: dict[tuple[str, str, str], tuple[str, float]] = {}
        """The commit that a device was told for a repository's branch, and when it last used that (s)."""

    def routes(self) -> list[Route]:
        """What can be asked, all of it only read."""
        model, file = "/api/models/{namespace}/{name}", "/{namespace}/{name}/resolve/{revision}/{path:.+}"
        paths = [
            (model, self._model),
            (model + "/revision/{revision}", self._model),
            (model + "/tree/{revision}", self._tree),
            (model + "/tree/{revision}/{path:.+}", self._tree),
            (file, self._file),
        ]
        return [Route(method, path, handler, READ) for path, handler in paths for method in ("GET", "HEAD")]

    async def _model(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._asked(request)
        if _branch(request)[2] in REVISIONS:
            self._listed[_branch(request)] = snapshot.commit, time.monotonic()
        model = HubModel(
            id=snapshot.repository,
            modelId=snapshot.repository,
            sha=snapshot.commit,
            lastModified=snapshot.release.created.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            tags=[snapshot.release.id, snapshot.artifact.format, snapshot.artifact.quantization],
            siblings=[
                HubSibling(rfilename=path, size=file.size_bytes, lfs=_lfs(file))
                for path, file in snapshot.files.items()
            ],
        )
        return _json(model.model_dump_json().encode(), snapshot)

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._asked(request)
        folder = request.match_info.get("path", "").strip("/")
        is_recursive = request.query.get("recursive", "").lower() in {"1", "true"}
        entries = _entries(snapshot.files, folder, is_recursive=is_recursive)
        if not entries:
            raise _missing("EntryNotFound", "this repository has no such folder")
        return _json(HubTree(entries).model_dump_json(exclude_none=True).encode(), snapshot)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._as_listed(request) or self._asked(request)
        file = snapshot.files.get(request.match_info["path"])
        path = self._store.blob(file.sha256) if file else None
        if file is None or path is None:
            raise _missing("EntryNotFound", "this repository has no such file")
        headers = {
            "X-Repo-Commit": snapshot.commit,
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.size_bytes),
        }
        if request.match_info["revision"] in REVISIONS:
            headers["Cache-Control"] = "private, no-cache"
        if request.method == "GET":
            await self._slot(request[DEVICE].id)
        return await blobs.serve(request, path, file, self._pace, headers)

    def _asked(self, request: web.Request) -> Snapshot:
        device_id, repository, revision = _branch(request)
        return find(self._store.published_to(device_id), repository, revision)

    def _as_listed(self, request: web.Request) -> Snapshot | None:
        """What the branch was when this device asked for its files a moment ago."""
        commit, used_s = self._listed.get(_branch(request), ("", 0.0))
        if not commit or time.monotonic() - used_s > LISTED_S:
            return None
        self._listed[_branch(request)] = commit, time.monotonic()
        with contextlib.suppress(web.HTTPNotFound):  # withdrawn, or no longer kept
            return find(self._store.published, _branch(request)[1], commit)
        return None

    async def _slot(self, device_id: str) -> None:
        """Wait until a file may be sent, but not for long."""
        deadline_s = time.monotonic() + SLOT_WAIT_S
        while time.monotonic() < deadline_s:
            with self._pace.slots.taken(device_id) as free:
                if free:
                    return
            await asyncio.sleep(0.05)


def _branch(request: web.Request) -> tuple[str, str, str]:
    """Which device asks for which repository and revision."""
    asked = request.match_info
    return request[DEVICE].id, f"{asked['namespace']}/{asked['name']}", asked.get("revision", "main")


def _by_path(artifact: Artifact) -> dict[str, ArtifactFile]:
    """Its files by their path in the repository, in the order of their names."""
    tops = {file.path.partition("/")[0] for file in artifact.files if "/" in file.path}
    in_one_folder = len(tops) == 1 and all("/" in file.path for file in artifact.files)
    strip = in_one_folder and artifact.format not in _WHOLE_FOLDERS
    files = {file.path.partition("/")[2] if strip else file.path: file for file in artifact.files}
    return dict(sorted(files.items()))


def _entries(files: Mapping[str, ArtifactFile], folder: str, *, is_recursive: bool) -> list[HubEntry]:
    """What lies in `folder` ("": the root), and with `is_recursive` in its folders."""
    found: dict[str, HubEntry] = {}
    root = PurePosixPath(folder)
    for path, file in files.items():
        place = PurePosixPath(path)
        if root not in place.parents:
            continue
        for parent in place.parents:
            if root in parent.parents and (is_recursive or parent.parent == root):
                inside = "".join(each.sha256 for name, each in files.items() if name.startswith(f"{parent}/"))
                oid = hashlib.sha256(inside.encode()).hexdigest()[:40]
                found[str(parent)] = HubEntry(type="directory", oid=oid, size=0, path=str(parent))
        if is_recursive or place.parent == root:
            found[path] = HubEntry(type="file", oid=file.sha256[:40], size=file.size_bytes, path=path, lfs=_lfs(file))
    return [found[path] for path in sorted(found)]


def _lfs(file: ArtifactFile) -> HubLfs:
    return HubLfs(oid=file.sha256, sha256=file.sha256, size=file.size_bytes)


def _json(body: bytes, snapshot: Snapshot) -> web.Response:
    headers = {"X-Repo-Commit": snapshot.commit, "Cache-Control": "private, no-cache"}
    return web.Response(body=body, content_type="application/json", headers=headers)


def _missing(code: str, detail: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=detail, headers={"X-Error-Code": code, "X-Error-Message": detail})
