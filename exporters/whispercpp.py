"""The child process that runs whisper.cpp: `python -m exporters.whispercpp MODEL`.

Native code that trusts its input must not take its caller down with it. Requests on stdin: a JSON line
`{"samples", "language", "audio_context", "timestamps", "threads"}` (`audio_context` in encoder positions, 0 for all),
then that many float32 samples. Answers on a duplicate of stdout, one JSON line each: first `{"runtime"}` when the model
is loaded, then `{"text", "compute_s", "peak_bytes"}` or `{"error"}`. End of stdin ends it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from idiolect.whisper import RATE_HZ

MIN_SAMPLES = RATE_HZ + 160  # FUTO's whisper.cpp answers nothing below 1 s: pad with silence to one frame more
_LIBRARIES = ("pywhispercpp.libs/", "pywhispercpp/.dylibs/", "")  # where wheels for Linux and macOS put them


def main() -> int:
    """Serve requests until stdin ends. A model that whisper.cpp does not load ends the process by a signal."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is reported, not debugged
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # native libraries print on stdout
    model = _Model(sys.argv[1])
    out.write(json.dumps({"runtime": runtime_name()}) + "\n")
    for request, samples in _requests(sys.stdin.buffer):
        out.write(json.dumps(model.answer(request, samples)) + "\n")
    return 0


def runtime_name() -> str:
    """ "whisper.cpp 1.8.5", from the library beside the binding; the binding's own version where that does not tell."""
    folder = Path(_binding().__file__).parent
    for path in (path for place in _LIBRARIES for path in sorted(folder.glob(f"{place}libwhisper*"))):
        if found := re.search(r"(\d+\.\d+\.\d+)", path.name):
            return f"whisper.cpp {found[1]}"
    return f"whisper.cpp (pywhispercpp {version('pywhispercpp')})"


def _binding() -> Any:  # noqa: ANN401
    """The extension module itself: the package's Model class ignores a failed load and crashes at the first clip."""
    return import_module("_pywhispercpp")


class _Model:
    """whisper.cpp decoding as FUTO does, but greedily: no fallback, no suppressed blanks, nothing dropped as silence.

    Flash attention stays off: whisper.cpp then pads keys to a multiple of 256 and attends to the padding, which
    changes words at a short audio context.
    """

    def __init__(self, path: str) -> None:
        self._native = native = _binding()
        context = native.whisper_context_default_params()
        context.use_gpu = False
        context.flash_attn = False
        self._context = native.whisper_init_from_file_with_params(path, context)
        native.whisper_n_vocab(self._context)  # a failed load gives no error but a null pointer: crash now, not later
        self._params = native.whisper_full_default_params(native.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
        self._params.print_progress = self._params.print_timestamps = False
        self._params.suppress_blank = False
        self._params.temperature_inc = 0.0
        self._params.no_speech_thold = 1.0

    def answer(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        import numpy as np

        samples = np.frombuffer(data, np.float32)
        samples = np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        self._params.language = request["language"]
        self._params.audio_ctx = request["audio_context"]
        self._params.n_threads = request["threads"]
        self._params.no_timestamps = self._params.single_segment = not request["timestamps"]
        started = time.perf_counter()
        status = self._native.whisper_full(self._context, self._params, samples, len(samples))
        compute_s = time.perf_counter() - started
        if status:
            return {"error": f"whisper_full answered {status}"}
        count = self._native.whisper_full_n_segments(self._context)
        parts = (self._native.whisper_full_get_segment_text(self._context, i) for i in range(count))
        text = b"".join(parts).decode("utf-8", "replace").strip()  # a character may be cut between two segments
        return {"text": text, "compute_s": compute_s, "peak_bytes": _peak_bytes()}


def _requests(stdin: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    while line := stdin.readline():
        request = json.loads(line)
        data = stdin.read(4 * request["samples"])
        if len(data) < 4 * request["samples"]:
            return  # the parent died
        yield request, data


def _peak_bytes() -> int:
    """Peak resident memory. Not ru_maxrss on Linux: that counts the parent's pages from before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
