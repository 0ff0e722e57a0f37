"""What a model was taught, by digest, beside its weights: so that it is never judged on what it knows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.files import write_json
from training.audio import pcm_sha256

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

FILE = "trained_on.json"


def write_trained_on(folder: Path, pcms: Iterable[Pcm]) -> None:
    """Note the clips that the model in `folder` learnt from, or was chosen by, as `pcm_sha256`."""
    write_json(folder / FILE, sorted({pcm_sha256(pcm) for pcm in pcms}))


def read_trained_on(folder: Path) -> frozenset[str]:
    """Those digests; none where nothing was noted or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return frozenset()
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()
