"""What tests look at in a model folder, and a manifest with lies in it."""

from __future__ import annotations

import json
from pathlib import Path

from daemon.sync.releases import ReleaseStore
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


def copy_manifest(store: ReleaseStore, liar: LyingService, **update: object) -> None:
    """Let the liar serve the store's manifest with changes, and its files."""
    assert store.published is not None
    content = json.loads(store.published.payload) | update
    payload = json.dumps(content).encode()
    liar.answers["/v1/manifest"] = lambda request: request.send(200, payload, ETag='"x"')
    for digest in store.published.files:
        blob = store.blob(digest)
        assert blob is not None
        liar.answers[f"/v1/blobs/sha256:{digest}"] = lambda request, blob=blob: request.send(  # type: ignore[misc]
            200, blob.read_bytes()
        )
