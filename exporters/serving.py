"""The child's end of a native runtime: native code that trusts its input must not take its caller down with it.

Requests on stdin: a JSON line `{"samples", "language", "audio_context", "timestamps", "beam_size", "threads"}`
(`audio_context` in encoder positions, 0 for all), then that many float32 samples. Answers on a duplicate of stdout, one
JSON line each: first `{"runtime", "not_checked"}` when the model is loaded, then `{"text", "compute_s", "peak_bytes"}`
or `{"error"}`. End of stdin ends it. The parent's end is in `exporters.runtimes`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from idiolect.child import collect_rarely

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


class Model(Protocol):
    """A loaded model: its runtime's name and version, and the answer to a request, without `peak_bytes`."""

    runtime: str

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]: ...


def serve(load: Callable[[str], Model]) -> int:
    """Body of a child's main(): load the model named on the command line, answer requests until stdin ends."""
    import numpy as np

    collect_rarely()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is reported, not debugged
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # native libraries print on stdout
    model = load(sys.argv[1])
    out.write(json.dumps({"runtime": model.runtime, "not_checked": getattr(model, "not_checked", ())}) + "\n")
    for request, data in _requests(sys.stdin.buffer):
        answer = model.answer(request, np.frombuffer(data, np.float32))
        out.write(json.dumps({**answer, "peak_bytes": peak_bytes()}) + "\n")
    return 0


def _requests(stdin: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    while line := stdin.readline():
        request = json.loads(line)
        data = stdin.read(4 * request["samples"])
        if len(data) < 4 * request["samples"]:
            return  # the parent died
        yield request, data


def peak_bytes() -> int:
    """Peak resident memory. Not ru_maxrss on Linux: that counts the parent's pages from before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
