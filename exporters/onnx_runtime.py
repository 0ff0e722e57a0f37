"""An export for transformers.js as a Transcriber: its models in onnxruntime, decoded as training.decode does."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.checkpoint import read_tokens
from exporters.log_mel import log_mel
from exporters.onnx_reader import check_onnx
from idiolect.errors import RuntimeFailed, UsageError, require
from idiolect.transcriber import DecodingOptions, Transcription
from idiolect.whisper import MAX_POSITIONS, RATE_HZ, audio_context, special_tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from idiolect.transcriber import Pcm

MAX_NEW_TOKENS = 220  # as the checkpoint is judged; a loop ends here
_DEFAULTS = DecodingOptions()


class OnnxWhisper:
    """See idiolect.transcriber.Transcriber. In this process: the reader lets nothing pass that could crash it."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Load a folder; `threads` 0: all cores. Raises ArtifactError, MissingExtra, RuntimeFailed."""
        info = check_onnx(folder)
        require("onnxruntime", "onnx")
        import onnxruntime

        self.name, self.runtime = folder.name, f"onnxruntime {onnxruntime.__version__}"
        self._dims, self._special = info.dims, special_tokens(info.dims.n_vocab)
        self._words = read_tokens(folder, info.dims)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work on this machine, too
        self._encoder: Any
        self._decoder: Any
        try:
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
                for path in (info.encoder, info.decoder)
            )
        except Exception as error:  # onnxruntime's own classes have no public base
            raise RuntimeFailed(f"{self.runtime} does not load {self.name}: {error}", "export it again") from error

    def transcribe(self, pcm: Pcm, options: DecodingOptions = _DEFAULTS) -> Transcription:
        """One clip. Raises UsageError (not 1-D float32, or a language Whisper does not have), RuntimeFailed."""
        if pcm.ndim != 1 or pcm.dtype != "float32":
            raise UsageError(f"PCM of shape {pcm.shape} and type {pcm.dtype}", "expected 1-D float32, mono, 16 kHz")
        try:
            prompt = self._special.prompt(options.language, timestamps=options.timestamps)
        except KeyError:
            raise UsageError(f"Whisper has no language {options.language!r}", "use a code like en, de, he") from None
        started = time.perf_counter()
        positions = MAX_POSITIONS if options.audio_context == "full" else audio_context(len(pcm))
        try:
            tokens = self.greedy(
                self.encode(log_mel(pcm, self._dims.n_mels, positions)[None]), prompt, options.timestamps
            )
        except Exception as error:
            raise RuntimeFailed(f"{self.runtime} with {self.name}: {error}", "export it again") from error
        text = b"".join(self._words[token] for token in tokens).decode("utf-8", "replace").strip()
        return Transcription(text, len(pcm) / RATE_HZ, time.perf_counter() - started)

    def transcribe_many(self, clips: Sequence[Pcm], options: DecodingOptions = _DEFAULTS) -> Iterator[Transcription]:
        """Clips one after the other, as the apps hear them."""
        return (self.transcribe(pcm, options) for pcm in clips)

    def encode(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Hidden states (B, frames / 2, width) of log-mel features (B, n_mels, frames)."""
        (hidden,) = self._encoder.run(None, {"input_features": features})
        return hidden  # type: ignore[no-any-return]

    def greedy(self, hidden: npt.NDArray[np.float32], prompt: Sequence[int], timestamps: bool = False) -> list[int]:
        """Text tokens after the prompt for hidden states of one clip; special tokens are suppressed."""
        step, special = self.steps(hidden), self._special
        found: list[int] = []
        tokens = list(prompt)
        for _ in range(min(MAX_NEW_TOKENS, self._dims.n_text_ctx - len(prompt))):
            logits = step(tokens)[0, -1]
            logits[special.eot + 1 : special.timestamp_begin] = -float("inf")
            if not timestamps:
                logits[special.timestamp_begin :] = -float("inf")
            tokens = [int(logits.argmax())]
            if tokens[0] == special.eot:
                break
            found += tokens
        return [token for token in found if token < special.eot]

    def steps(self, hidden: npt.NDArray[np.float32]) -> Any:  # noqa: ANN401
        """A function from token ids to logits (1, their number, vocabulary), which remembers what it was told."""
        import numpy as np

        dims = self._dims
        names = [output.name for output in self._decoder.get_outputs()]
        nothing = np.zeros((1, dims.n_text_head, 0, dims.n_text_state // dims.n_text_head), np.float32)
        past = {name.replace("present", "past_key_values"): nothing for name in names[1:]}

        def step(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
            first = past["past_key_values.0.encoder.key"] is nothing
            inputs = {"input_ids": np.array([tokens], np.int64), "encoder_hidden_states": hidden, **past}
            logits, *present = self._decoder.run(names, {**inputs, "use_cache_branch": np.array([not first])})
            for name, value in zip(past, present, strict=True):
                if first or "decoder" in name:
                    past[name] = value
            return logits  # type: ignore[no-any-return]

        return step

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of this process."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def close(self) -> None:
        """Free the models."""
        self._encoder = self._decoder = None
