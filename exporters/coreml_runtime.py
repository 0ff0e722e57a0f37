"""A WhisperKit folder as a Transcriber: its own three programs, called as WhisperKit calls them.

On a Mac Core ML itself runs them. Elsewhere `exporters.mil` computes what they say, which proves the exported files but
tells nothing of the Neural Engine: whether Apple's compiler takes them, where they run, how fast, and how its float16
sums round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from exporters.coreml_check import check_coreml
from exporters.serving import peak_bytes
from exporters.whisperkit import KV_LENGTH, MASKED, PARTS
from idiolect.errors import ArtifactError, RuntimeFailed, UsageError, require
from idiolect.transcriber import DecodingOptions, Transcription
from idiolect.whisper import MAX_SAMPLES, RATE_HZ, SpecialTokens, special_tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from idiolect.transcriber import Pcm

    Array: TypeAlias = npt.NDArray[Any]
    Floats: TypeAlias = npt.NDArray[np.float32]
    Step: TypeAlias = Callable[[int, int], Floats]

NOT_CHECKED = "what only Apple hardware can tell: Apple's compiler, Neural Engine placement, speed and rounding"
_DEFAULTS = DecodingOptions()


def open(path: Path, threads: int = 0) -> WhisperKit:
    """Load an exported folder; `threads` 0 leaves torch's own number.

    Raises ArtifactError (the folder is damaged or not what WhisperKit expects), MissingExtra, RuntimeFailed.
    """
    return WhisperKit(path.resolve(), threads)


class WhisperKit:
    """See idiolect.transcriber.Transcriber. Greedy decoding without fallback; windows are always 30 s, whatever the
    options' audio context, because the encoder's length is fixed."""

    not_checked: tuple[str, ...] = () if sys.platform == "darwin" else (NOT_CHECKED,)

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.name = folder.name
        self.info = check_coreml(folder)
        require("tokenizers", "coreml")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the binding raises nothing narrower
            raise ArtifactError(f"{folder.name}: tokenizer.json cannot be read: {error}", "export it again") from error
        self._special = special_tokens(self.info.dims.n_vocab)
        self.runtime, load = _backend(threads)
        self._mel, self._encoder, self._decoder = (load(folder / f"{part}.mlpackage") for part in PARTS)

    def transcribe(self, pcm: Pcm, options: DecodingOptions = _DEFAULTS) -> Transcription:
        """One clip; what is past 30 s is cut.

        Raises UsageError (not 1-D float32, or a language Whisper does not have), RuntimeFailed.
        """
        started = time.perf_counter()
        tokens = self.decode(self.encode(pcm), options)
        text = self._tokenizer.decode([token for token in tokens if token < self._special.eot])
        return Transcription(text.strip(), len(pcm) / RATE_HZ, time.perf_counter() - started)

    def transcribe_many(self, clips: Sequence[Pcm], options: DecodingOptions = _DEFAULTS) -> Iterator[Transcription]:
        """Clips one after the other, as the app hears them."""
        return (self.transcribe(pcm, options) for pcm in clips)

    def encode(self, pcm: Pcm) -> Array:
        """Encoder output (1, width, 1, 1500) for PCM, padded with silence to 30 s."""
        import numpy as np

        if pcm.ndim != 1 or pcm.dtype != "float32":
            raise UsageError(f"PCM of shape {pcm.shape} and type {pcm.dtype}", "expected 1-D float32, mono, 16 kHz")
        audio = np.zeros(MAX_SAMPLES, np.float32)
        audio[: len(pcm)] = pcm[:MAX_SAMPLES]
        return self._encoder(self._mel({"audio": audio}))["encoder_output_embeds"]

    def decode(
        self,
        heard: Array,
        options: DecodingOptions = _DEFAULTS,
        on_logits: Callable[[Sequence[int], Floats], None] | None = None,
    ) -> list[int]:
        """Token ids after the prompt, without end-of-text, for an encoder's output.

        `on_logits` hears all tokens so far, the prompt included, and the logits (vocabulary) that follow them.
        """
        try:
            prompt = self._special.prompt(options.language, timestamps=options.timestamps)
        except KeyError:
            raise UsageError(f"Whisper has no language {options.language!r}", "use a code like en, de, he") from None
        if options.timestamps:
            prompt = [*prompt, self._special.timestamp_begin]
        step = _Cached(self._decoder, heard, self.info.dims.n_text_state * self.info.dims.n_text_layer)
        return greedy(step, prompt, self._special, options.timestamps, on_logits)

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of this process."""
        return peak_bytes()

    def close(self) -> None:
        """Free the model."""
        del self._mel, self._encoder, self._decoder


def greedy(
    step: Step,
    prompt: Sequence[int],
    special: SpecialTokens,
    timestamps: bool = False,
    on_logits: Callable[[Sequence[int], Floats], None] | None = None,
) -> list[int]:
    """WhisperKit's loop (`TextDecoder.swift`, `decodeText`) at temperature 0 with its default options.

    `step(token, index)` gives the logits (vocabulary) after the token at that index. The prompt is forced token
    by token, but for a last timestamp where the model prefers another one. Nothing is suppressed except by the rules
    for timestamps. Ends at end-of-text, or when 223 tokens stand there.
    """
    tokens, said = list(prompt), -1
    for index in range(KV_LENGTH - 1):
        if index < len(prompt):
            last_timestamp = index == len(prompt) - 1 and tokens[index] >= special.timestamp_begin
            if last_timestamp and said >= special.timestamp_begin:
                tokens[index] = said
            said = tokens[index]
        logits = step(said, index)
        if on_logits and index >= len(prompt) - 1:
            on_logits(tokens, logits)
        if timestamps:
            follow_timestamp_rules(logits, tokens, len(prompt), special)
        said = int(logits.argmax())
        if said == special.eot or len(tokens) >= KV_LENGTH - 1:
            break
        if index >= len(prompt) - 1:
            tokens.append(said)
    return tokens[len(prompt) :]


def follow_timestamp_rules(logits: Floats, tokens: Sequence[int], n_prompt: int, special: SpecialTokens) -> None:
    """Suppress in place what may not follow: WhisperKit's `TimestampRulesFilter`, itself after openai/whisper."""
    import numpy as np

    begin, never = special.timestamp_begin, -np.inf
    logits[special.no_timestamps] = never
    sampled = tokens[n_prompt:]
    stamps = [token for token in sampled if token >= begin]
    if sampled:
        stamped, before = sampled[-1] >= begin, len(sampled) < 2 or sampled[-2] >= begin
        if stamped and before:
            logits[begin:] = never
        elif stamped:
            logits[: special.eot] = never
        if stamps:  # they never fall, and no segment is empty
            logits[begin : stamps[-1] + (not stamped or before)] = never
    top = logits.max()
    if np.exp(logits[begin:] - top).sum() > np.exp(logits[:begin].max() - top):
        logits[:begin] = never


class _Cached:
    """The decoder with its caches and masks, as WhisperKit keeps them between tokens."""

    def __init__(self, decoder: Callable[[Mapping[str, Array]], Mapping[str, Array]], heard: Array, rows: int) -> None:
        import numpy as np

        self._decoder = decoder
        self._inputs: dict[str, Any] = {
            "key_cache": np.zeros((1, rows, 1, KV_LENGTH), np.float16),
            "value_cache": np.zeros((1, rows, 1, KV_LENGTH), np.float16),
            "kv_cache_update_mask": np.zeros((1, KV_LENGTH), np.float16),
            "encoder_output_embeds": heard,
            "decoder_key_padding_mask": np.full((1, KV_LENGTH), MASKED, np.float16),
        }

    def __call__(self, token: int, index: int) -> Floats:
        import numpy as np

        inputs = self._inputs
        inputs["input_ids"], inputs["cache_length"] = np.array([token], np.int32), np.array([index], np.int32)
        inputs["decoder_key_padding_mask"][0, index] = 0
        inputs["kv_cache_update_mask"][0] = np.arange(KV_LENGTH) == index
        outputs = self._decoder(inputs)
        for name in ("key_cache", "value_cache"):
            inputs[name][..., index] = outputs[f"{name}_updates"][..., 0]
        return outputs["logits"].astype(np.float32).reshape(-1)


def _backend(threads: int) -> tuple[str, Callable[[Path], Callable[[Mapping[str, Array]], Mapping[str, Array]]]]:
    """The runtime's name, and what loads one package in it."""
    require("coremltools", "coreml")
    if sys.platform == "darwin":
        return _core_ml()
    require("torch", "coreml")
    import torch

    from exporters.mil import Program

    if threads:
        torch.set_num_threads(threads)
    version = torch.__version__.split("+")[0]
    return f"Core ML program in torch {version}", lambda path: Program(path, {"encoder_output_embeds"})


def _core_ml() -> tuple[str, Any]:
    import platform

    import coremltools as ct

    def load(path: Path) -> Any:  # noqa: ANN401
        try:
            return ct.models.MLModel(str(path)).predict
        except Exception as error:
            raise RuntimeFailed(f"Core ML refuses {path.name}: {error}", "export the model again") from error

    return f"Core ML on macOS {platform.mac_ver()[0]}", load
