"""The child process that runs whisper.cpp: `python -m exporters.whispercpp MODEL`."""

from __future__ import annotations

import re
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.serving import serve
from idiolect.whisper import RATE_HZ

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MIN_SAMPLES = RATE_HZ + 160  # FUTO's whisper.cpp answers nothing below 1 s: pad with silence to one frame more
_LIBRARIES = ("pywhispercpp.libs/", "pywhispercpp/.dylibs/", "")  # where wheels for Linux and macOS put them


def main() -> int:
    """Serve requests until stdin ends. A model that whisper.cpp does not load ends the process by a signal."""
    return serve(_Model)


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
    """whisper.cpp decoding as FUTO does: no fallback, no suppressed blanks, nothing dropped as silence. FUTO searches
    with 5 beams, whose words whisper.cpp draws at random, going on with its numbers from clip to clip; one beam is
    greedy.

    Flash attention stays off: whisper.cpp then pads keys to a multiple of 256 and attends to the padding, which
    changes words at a short audio context.
    """

    def __init__(self, path: str) -> None:
        self.runtime = runtime_name()
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

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        import numpy as np

        samples = np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        strategies = self._native.whisper_sampling_strategy
        self._params.strategy = (
            strategies.WHISPER_SAMPLING_BEAM_SEARCH if request["beam_size"] > 1 else strategies.WHISPER_SAMPLING_GREEDY
        )
        self._params.beam_search = {"beam_size": request["beam_size"], "patience": -1.0}
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
        return {"text": text, "compute_s": compute_s}


if __name__ == "__main__":
    sys.exit(main())
