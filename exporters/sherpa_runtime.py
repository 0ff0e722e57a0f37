"""The child process that runs sherpa-onnx: `python -m exporters.sherpa_runtime FOLDER`. It ends what it dislikes."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.serving import serve
from idiolect.whisper import MAX_FRAMES, RATE_HZ

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MIN_SAMPLES = RATE_HZ // 10  # sherpa-onnx crashes on a clip without one frame
APPS_TAIL_FRAMES = 1000  # what the apps add to a clip unless told otherwise: the model needs silence to end at


def main() -> int:
    """Serve requests until stdin ends. A model that sherpa-onnx refuses ends the process."""
    return serve(_Model)


class _Model:
    """Greedy decoding as the apps do it. Settings belong to a recogniser, so a change of them loads a new one."""

    def __init__(self, folder: str) -> None:
        self.runtime = f"sherpa-onnx {version('sherpa-onnx')}"
        self._folder = Path(folder)
        self._settings: dict[str, Any] = {}
        self._recognizer = self._load(language="en", tail_paddings=APPS_TAIL_FRAMES)

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        import numpy as np

        recognizer = self._load(
            language=request["language"],
            tail_paddings=APPS_TAIL_FRAMES if request["audio_context"] else MAX_FRAMES,
            enable_segment_timestamps=request["timestamps"],
            num_threads=request["threads"],
        )
        samples = np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        started = time.perf_counter()
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        recognizer.decode_stream(stream)
        return {"text": stream.result.text.strip(), "compute_s": time.perf_counter() - started}

    def _load(self, **settings: Any) -> Any:  # noqa: ANN401
        from sherpa_onnx import OfflineRecognizer

        if settings != self._settings:
            names = ("encoder.onnx", "decoder.onnx", "tokens.txt")
            self._recognizer = OfflineRecognizer.from_whisper(*(str(self._folder / name) for name in names), **settings)
            self._settings = settings
        return self._recognizer


if __name__ == "__main__":
    sys.exit(main())
