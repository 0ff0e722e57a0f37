"""The child process that runs faster-whisper: `python -m exporters.faster_whisper_runtime FOLDER`."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from exporters.serving import serve

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm


def main() -> int:
    """Serve requests until stdin ends. A model that CTranslate2 refuses ends the process."""
    return serve(_Model)


class _Model:
    """Greedy decoding without fallback, nothing suppressed or dropped as silence. Always full windows: it pads them.

    The number of threads belongs to a loaded model, so a change of it loads the model again.
    """

    def __init__(self, folder: str) -> None:
        self.runtime = f"faster-whisper {version('faster-whisper')} (CTranslate2 {version('ctranslate2')})"
        self._folder = folder
        self._threads = 0
        self._model = self._load(1)

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        model = self._load(request["threads"])
        started = time.perf_counter()
        segments, _ = model.transcribe(
            samples,
            language=request["language"],
            without_timestamps=not request["timestamps"],
            beam_size=1,
            temperature=0.0,
            suppress_blank=False,
            suppress_tokens=[],
            condition_on_previous_text=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        text = "".join(segment.text for segment in segments).strip()
        return {"text": text, "compute_s": time.perf_counter() - started}

    def _load(self, threads: int) -> Any:  # noqa: ANN401
        from faster_whisper import WhisperModel

        if threads != self._threads:
            self._model = WhisperModel(self._folder, device="cpu", cpu_threads=threads, local_files_only=True)
            self._threads = threads
        return self._model


if __name__ == "__main__":
    sys.exit(main())
