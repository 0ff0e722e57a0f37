"""What tests look at in a model folder, and a manifest with lies in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from daemon.sync.releases import ReleaseStore
from idiolect import signing
from tests.idiolect.services import LyingService

SIZE = 400_000


def hidden(into: Path) -> Path:
    return into.parent / ".current.idiolect"


def everything(folder: Path) -> dict[str, bytes | str]:
    """All files and links below a folder, to see that nothing changed."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def content(store: ReleaseStore) -> dict[str, Any]:
    """The store's manifest, to be changed."""
    assert store.published is not None
    manifest: dict[str, Any] = json.loads(signing.payload_of(store.published.envelope, signing.MANIFEST_TYPE))
    return manifest


def tell(liar: LyingService, envelope: bytes) -> None:
    """Let the liar answer with this when it is asked for the manifest."""
    liar.answers["/v1/manifest"] = lambda request: request.send(200, envelope, ETag='"x"')


def copy_manifest(store: ReleaseStore, liar: LyingService, **update: object) -> None:
    """Let the liar serve the store's manifest with changes, signed as if they were true, its roots and its files."""
    tell(liar, store.keys.sign(json.dumps(content(store) | update).encode()))
    for version in range(1, store.keys.root_version + 1):
        root = store.keys.root(version)
        assert root is not None
        liar.answers[f"/v1/root/{version}"] = lambda request, root=root: request.send(200, root)  # type: ignore[misc]
    assert store.published is not None
    for digest in store.published.files:
        blob = store.blob(digest)
        assert blob is not None
        liar.answers[f"/v1/blobs/sha256:{digest}"] = lambda request, blob=blob: request.send(  # type: ignore[misc]
            200, blob.read_bytes()
        )
