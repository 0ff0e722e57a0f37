"""A Hugging Face Whisper checkpoint as a Transcriber: batched greedy decoding at the clip's true length."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from idiolect.errors import CheckpointError, JobError, UsageError, first_line, require
from idiolect.transcriber import DecodingOptions, Transcription
from idiolect.whisper import LANGUAGES, MAX_POSITIONS, RATE_HZ, audio_context, special_tokens
from training.memory import is_shortage

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

    from idiolect.transcriber import Pcm

BATCH_CLIPS = 32
SPREAD_POSITIONS = 16  # clips of one batch differ by at most 0.32 s, so that "dynamic" stays what FUTO does
MAX_NEW_TOKENS = 220  # WhisperKit's and FUTO's order of magnitude; a loop ends here


def load_model(folder: Path) -> tuple[WhisperForConditionalGeneration, Any]:
    """The float32 model and its tokenizer from a local folder; nothing is downloaded.

    Raises CheckpointError with the folder's name when it is damaged or of another kind, JobError when memory ends.
    """
    require("torch", "train")
    require("transformers", "train")
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, loading = WhisperForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        if lacking := sorted(loading["missing_keys"]):  # transformers would draw them at random
            raise ValueError(f"{len(lacking)} tensors are missing, such as {lacking[0]}")
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(f"{name} holds values that are not numbers")
        # from tokenizer.json, which every folder has, even where the configuration asks for the slow way
        tokenizer = WhisperTokenizerFast.from_pretrained(folder, local_files_only=True, from_slow=False)
        special_tokens(model.config.vocab_size)
    except Exception as error:
        if is_shortage(error):
            raise JobError(
                f"out of memory: {folder} does not fit", "close other programs, or name a smaller model"
            ) from error
        reason = first_line(error)
        raise CheckpointError(f"cannot load {folder}: {reason}", "copy or download the model again") from error
    return model, tokenizer


def encode(model: WhisperForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    """Encoder hidden states (B, positions, d_model) for (B, n_mels, 2 * positions) features of any length up to 30 s.

    transformers' own encoder insists on 3000 frames; this one uses the first `positions` rows of its position table.
    """
    from torch.nn.functional import gelu

    encoder = model.model.encoder
    hidden = gelu(encoder.conv1(features))
    hidden = gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None, None)[0]
    return encoder.layer_norm(hidden)  # type: ignore[no-any-return]


class CheckpointTranscriber:
    """See idiolect.transcriber.Transcriber."""

    def __init__(self, folder: Path, name: str = "", threads: int = 0) -> None:
        require("torch", "train")
        import torch

        from training.features import LogMel

        if threads:
            torch.set_num_threads(threads)
        _forget_peak()
        model, tokenizer = load_model(folder)
        self.name = name or folder.name
        self.runtime = f"torch {torch.__version__.split('+')[0]}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = cast(Any, model)
        self._model.to(self._device).eval()
        self._tokenizer = tokenizer
        self._special = special_tokens(model.config.vocab_size)
        self._log_mel = LogMel(model.config.num_mel_bins)

    def transcribe(self, pcm: Pcm, options: DecodingOptions = DecodingOptions()) -> Transcription:
        """One clip of at most 30 s."""
        return next(iter(self.transcribe_many([pcm], options)))

    def transcribe_many(
        self, clips: Sequence[Pcm], options: DecodingOptions = DecodingOptions()
    ) -> Iterator[Transcription]:
        """Clips in batches of similar length, answered in their order once all of them are decoded."""
        contexts = [MAX_POSITIONS if options.audio_context == "full" else audio_context(len(pcm)) for pcm in clips]
        answers: dict[int, Transcription] = {}
        for batch in _similar(contexts):
            started = time.perf_counter()
            texts = self._decode([clips[i] for i in batch], max(contexts[i] for i in batch), options)
            compute_s = (time.perf_counter() - started) / len(batch)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = Transcription(text, len(clips[index]) / RATE_HZ, compute_s)
        return (answers[i] for i in range(len(clips)))

    def language(self, pcm: Pcm) -> tuple[str, float]:
        """The likeliest language of 16 kHz samples (their first 30 s) and its probability, by the decoder's first step.

        Raises UsageError for a model of English alone.
        """
        if not self._special.multilingual:
            raise UsageError(f"{self.name} knows only English", "name a multilingual model, such as tiny")
        pcm = pcm[: MAX_POSITIONS * 2 * RATE_HZ // 100]
        likely = language_probabilities(self._model, self._log_mel(pcm))
        best = int(likely.argmax())
        return LANGUAGES[best], float(likely[best])

    def peak_memory_bytes(self) -> int:
        """Peak resident memory of this process since the model was loaded (macOS: since the process began)."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def close(self) -> None:
        """Free the model."""
        del self._model

    def _decode(self, clips: Sequence[Pcm], positions: int, options: DecodingOptions) -> list[str]:
        import torch

        from training.features import stack

        try:
            prompt = self._special.prompt(options.language, timestamps=options.timestamps)
        except KeyError:
            raise UsageError(f"Whisper has no language {options.language!r}", "use a code like en, de, he") from None
        with torch.inference_mode():
            features = stack([self._log_mel(pcm) for pcm in clips], positions).to(self._device)
            tokens = greedy(self._model, encode(self._model, features), prompt, self._special.eot, options.timestamps)
        return [self._tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]


def language_probabilities(model: WhisperForConditionalGeneration, mel: torch.Tensor) -> torch.Tensor:
    """How likely each of LANGUAGES is (n_languages,), by a multilingual model's first step on (n_mels, frames)."""
    import torch

    from training.features import stack

    special = special_tokens(model.config.vocab_size)
    first = special.language(LANGUAGES[0])
    with torch.inference_mode():
        hidden = encode(model, stack([mel], MAX_POSITIONS).to(model.device))
        start = torch.tensor([[special.sot]], device=model.device)
        out = model.model.decoder(input_ids=start, encoder_hidden_states=hidden).last_hidden_state[0, -1]
        likely: torch.Tensor = model.proj_out(out)[first : first + special.n_languages].softmax(-1)
    return likely


def greedy(
    model: WhisperForConditionalGeneration,
    hidden: torch.Tensor,
    prompt: Sequence[int],
    eot: int,
    timestamps: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[int]]:
    """Token ids after the prompt, without end-of-text, for encoder states (B, positions, d_model).

    Special tokens are suppressed, and timestamps unless asked for, as FUTO's and whisper.cpp's decoders do.
    """
    import torch
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    special = special_tokens(model.config.vocab_size)
    batch = hidden.shape[0]
    tokens = torch.tensor([prompt] * batch, device=hidden.device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    done = torch.zeros(batch, dtype=torch.bool, device=hidden.device)
    found = tokens[:, :0]
    for _ in range(min(max_new_tokens, model.config.max_target_positions - len(prompt))):
        out = model.model.decoder(
            input_ids=tokens, encoder_hidden_states=hidden, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = model.proj_out(out)
        logits[:, eot + 1 : special.timestamp_begin] = -torch.inf
        if not timestamps:
            logits[:, special.timestamp_begin :] = -torch.inf
        tokens = logits.argmax(-1, keepdim=True).masked_fill(done[:, None], eot)
        done |= tokens[:, 0] == eot
        if done.all():
            break
        found = torch.cat([found, tokens], 1)
    return [[t for t in row if t < eot] for row in found.tolist()]


def _forget_peak() -> None:
    """Let the peak memory count from here, so that one model's is not taken for the next one's (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _similar(contexts: Sequence[int]) -> list[list[int]]:
    """Indices grouped so that a batch's contexts differ by at most SPREAD_POSITIONS."""
    batches: list[list[int]] = []
    for index in sorted(range(len(contexts)), key=lambda i: contexts[i]):
        if (
            batches
            and len(batches[-1]) < BATCH_CLIPS
            and contexts[index] - contexts[batches[-1][0]] <= SPREAD_POSITIONS
        ):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
