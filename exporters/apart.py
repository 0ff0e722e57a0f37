"""The child process that runs an artifact whose runtime needs none: `python -m exporters.apart PATH`.

So the memory measured is the runtime's own, not that of whatever else the asking process has done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters import unchecked_by
from exporters.kinds import RUNTIMES, dims_of, kind_of
from exporters.runtimes import InChild, open_artifact
from exporters.serving import serve
from idiolect.errors import require
from idiolect.transcriber import DecodingOptions, Transcriber

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

IN_PROCESS = frozenset({"onnx", "coreml"})
"""Kinds whose runtime `open_artifact` loads into the asking process; the others have children of their own."""


def open_apart(path: Path, threads: int = 0) -> Transcriber:
    """`open_artifact` in a child process, whatever the runtime. Raises what that raises."""
    path = path.resolve()
    kind = kind_of(path).name
    if kind not in IN_PROCESS:
        return open_artifact(path, threads)
    require(*RUNTIMES[kind])
    return Apart(path, dims_of(path).n_vocab, threads)


class Apart(InChild):
    """A runtime that could as well run in this process."""

    module, program = "exporters.apart", "its runtime"


def main() -> int:
    """Serve requests until stdin ends. A model that its reader or runtime refuses ends the process."""
    return serve(_Model)


class _Model:
    def __init__(self, path: str) -> None:
        self._transcriber = open_artifact(Path(path))
        self.runtime, self.not_checked = self._transcriber.runtime, unchecked_by(self._transcriber)

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        context = "dynamic" if request["audio_context"] else "full"
        options = DecodingOptions(request["language"], context, request["timestamps"])  # type: ignore[arg-type]
        heard = self._transcriber.transcribe(samples, options)
        return {"text": heard.text, "compute_s": heard.compute_s}


if __name__ == "__main__":
    sys.exit(main())
