"""The child process that runs transcribe.cpp: `python -m exporters.transcribecpp MODEL`."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from exporters.serving import serve
from idiolect.whisper import RATE_HZ

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MIN_SAMPLES = RATE_HZ // 10


def main() -> int:
    """Serve requests until stdin ends. A model that transcribe.cpp refuses ends the process."""
    return serve(_Model)


class _Model:
    """Greedy decoding without fallback, in full windows: transcribe.cpp has no other context.

    The cache is float32: with one of float16 transcribe.cpp uses flash attention, pads 1500 keys to 1536 and attends to
    the padding, which changed the text of 5 of 91 clips of nano.
    """

    def __init__(self, path: str) -> None:
        import transcribe_cpp

        transcribe_cpp.set_log_callback(lambda level, message: None)
        self.runtime = f"transcribe.cpp {version('transcribe-cpp')}"
        self._model = transcribe_cpp.Model(path, backend="cpu")
        self._options = transcribe_cpp.WhisperRunOptions(temperature=0.0, temperature_inc=0.0)

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        import numpy as np

        samples = np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        with self._model.session(n_threads=request["threads"], kv_type="f32") as session:
            started = time.perf_counter()
            answer = session.run(
                samples,  # type: ignore[arg-type]  # any buffer of float32
                language=request["language"],
                timestamps="segment" if request["timestamps"] else "none",
                family=self._options,
            )
        return {"text": answer.text.strip(), "compute_s": time.perf_counter() - started}


if __name__ == "__main__":
    sys.exit(main())
