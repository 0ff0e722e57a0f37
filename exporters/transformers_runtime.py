"""The child process that runs transformers: `python -m exporters.transformers_runtime FOLDER`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from exporters.serving import serve

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

MAX_NEW_TOKENS = 220  # as the checkpoint is judged; a loop ends here


def main() -> int:
    """Serve requests until stdin ends. A model that transformers refuses ends the process."""
    return serve(_Model)


class _Model:
    """Greedy decoding, nothing suppressed, in full windows: the feature extractor pads to them."""

    def __init__(self, folder: str) -> None:
        import torch
        import transformers

        self.runtime = f"transformers {transformers.__version__} (torch {torch.__version__})"
        self._processor: Any = transformers.WhisperProcessor.from_pretrained(folder, local_files_only=True)
        self._model = transformers.WhisperForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        settings = self._model.generation_config
        settings.suppress_tokens = settings.begin_suppress_tokens = settings.forced_decoder_ids = None

    def answer(self, request: dict[str, Any], samples: Pcm) -> dict[str, Any]:
        import torch

        torch.set_num_threads(request["threads"])
        spoken = {"language": request["language"], "task": "transcribe"} if self._is_multilingual else {}
        started = time.perf_counter()
        with torch.inference_mode():
            found = self._model.generate(
                self._processor(samples, sampling_rate=16_000, return_tensors="pt").input_features,
                return_timestamps=request["timestamps"],
                do_sample=False,
                num_beams=1,
                max_new_tokens=MAX_NEW_TOKENS,
                **spoken,
            )
        text = self._processor.batch_decode(found, skip_special_tokens=True)[0].strip()
        return {"text": text, "compute_s": time.perf_counter() - started}

    @property
    def _is_multilingual(self) -> bool:
        return bool(self._model.config.vocab_size > 51_864)


if __name__ == "__main__":
    sys.exit(main())
