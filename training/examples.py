"""Clips made ready for training: log-mel, target tokens, and the reason where a clip cannot be used."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from idiolect.errors import DatasetError
from idiolect.whisper import MAX_S, MAX_TEXT_POSITIONS, RATE_HZ, SpecialTokens
from training.features import LogMel, stretch, true_positions
from training.mel_cache import MelCache
from training.quality import check_audible
from training.split import text_key

if TYPE_CHECKING:
    import torch

    from idiolect.transcriber import Pcm

MAX_CLIP_TOKENS = MAX_TEXT_POSITIONS - 6  # prompt, two timestamps, end of text
IGNORED = -100  # label of positions that carry no loss
TIMESTAMP_STEP_S = 0.02
_SPACE = "Ġ"  # how byte-level BPE writes the space that begins a word
SPEECH_BELOW_PEAK_DB = 35.0  # frames quieter than this under the loudest count as the silence after the speech


@dataclass(frozen=True)
class Example:
    """One clip for training: float16 (n_mels, frames) log10 mel energies, text token ids, where the speech ends.

    `words` are the tokens again, a tuple for each word; `letters` is the text without case and punctuation.
    """

    name: str
    mel: torch.Tensor
    tokens: tuple[int, ...]
    language: str
    speech_end_s: float
    duration_s: float
    words: tuple[tuple[int, ...], ...]
    letters: str

    @property
    def positions(self) -> int:
        """Encoder positions of the clip's own audio."""
        return true_positions(self.mel)


class ExampleMaker:
    """Makes examples for one model."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        special: SpecialTokens,
        n_mels: int,
        cache: MelCache | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._log_mel = LogMel(n_mels)
        self._cache = cache

    def __call__(self, name: str, pcm: Pcm, text: str, language: str) -> Example:
        """Raises DatasetError with the reason when the clip cannot teach this model anything."""
        check_audible(pcm)
        try:
            self._special.language(language)
        except KeyError:
            raise DatasetError(f"this Whisper has no language {language!r}", "use a code like en, de, he") from None
        if language != "en" and not self._special.multilingual:
            raise DatasetError(
                f"this model knows English alone, and the language is {language!r}", "take one without .en"
            )
        tokens = tuple(self._tokenizer(" " + text.strip(), add_special_tokens=False).input_ids)
        if not 0 < len(tokens) <= MAX_CLIP_TOKENS:
            raise DatasetError(
                f"the text makes {len(tokens)} tokens, 1 to {MAX_CLIP_TOKENS} fit",
                "cut text and recording into shorter ones",
            )
        mel = self._cache.get(pcm, self._log_mel) if self._cache else self._log_mel(pcm).half()
        speech_end_s = _speech_end_s(mel.float())
        return Example(
            name, mel, tokens, language, speech_end_s, len(pcm) / RATE_HZ, self._words(tokens), text_key(text)
        )

    def _words(self, tokens: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        words: list[tuple[int, ...]] = []
        for token, piece in zip(tokens, self._tokenizer.convert_ids_to_tokens(tokens), strict=True):
            if piece.startswith(_SPACE) or not words:
                words.append(())
            words[-1] = (*words[-1], token)
        return tuple(words)


def collate(
    examples: Sequence[Example], special: SpecialTokens, timestamps: Sequence[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs and labels, both int64 (B, longest), labels IGNORED on the prompt and the padding.

    Where `timestamps` is true the target is `<|0.00|> text <|end|>`, else it follows `<|notimestamps|>`.
    """
    import torch

    sequences = [_sequence(example, special, timed) for example, timed in zip(examples, timestamps, strict=True)]
    longest = max(len(tokens) for tokens, _ in sequences) - 1
    inputs = torch.full((len(examples), longest), special.eot)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, (tokens, n_prompt) in enumerate(sequences):
        inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        labels[row, n_prompt - 1 : len(tokens) - 1] = torch.tensor(tokens[n_prompt:])
    return inputs, labels


def stretched(example: Example, factor: float) -> Example:
    """The same example said `factor` times as slowly, its mel energies as float32."""
    return replace(
        example, mel=stretch(example.mel.float(), factor), speech_end_s=min(MAX_S, example.speech_end_s * factor)
    )


def joined(examples: Sequence[Example]) -> Example:
    """One example in which all of them are said, one after the other."""
    import torch

    if len(examples) == 1:
        return examples[0]
    *before, last = examples
    return replace(
        last,
        name=" + ".join(example.name for example in examples),
        mel=torch.cat([example.mel for example in examples], dim=1),
        tokens=tuple(token for example in examples for token in example.tokens),
        words=tuple(word for example in examples for word in example.words),
        letters=" ".join(example.letters for example in examples),
        speech_end_s=sum(example.mel.shape[1] for example in before) / 100 + last.speech_end_s,
        duration_s=sum(example.duration_s for example in examples),
    )


def possible_tokens(example: Example, special: SpecialTokens, stretch: float, timed: bool) -> set[int]:
    """Every token that targets of this clip may hold, said up to the share `stretch` faster or slower."""
    found = {*special.prompt(example.language), *example.tokens, special.eot}
    if timed:
        first, last = (_end_token(example.speech_end_s * x, special) for x in (1 - stretch, 1 + stretch))
        found |= {special.timestamp_begin, *range(first, last + 1)}
    return found


def draw_contexts(positions: Sequence[int], full_share: float, longer_share: float, rng: random.Random) -> list[int]:
    """The audio context each clip gets this epoch, in encoder positions.

    Most clips get their own length and up to 32 more (FUTO adds 32), `longer_share` of them up to 400 more (8 s),
    `full_share` the whole 30 s as apps that pad use it.
    """
    contexts = []
    for own in positions:
        kind = rng.random()
        if kind < full_share:
            contexts.append(1500)
        elif kind < full_share + longer_share:
            contexts.append(min(1500, own + rng.randint(33, 400)))
        else:
            contexts.append(min(1500, own + rng.randint(0, 32)))
    return contexts


def _sequence(example: Example, special: SpecialTokens, timed: bool) -> tuple[list[int], int]:
    prompt = special.prompt(example.language, timestamps=timed)
    if not timed:
        return [*prompt, *example.tokens, special.eot], len(prompt)
    end = _end_token(example.speech_end_s, special)
    return [*prompt, special.timestamp_begin, *example.tokens, end, special.eot], len(prompt)


def _end_token(speech_end_s: float, special: SpecialTokens) -> int:
    return special.timestamp_begin + min(1500, round(speech_end_s / TIMESTAMP_STEP_S))


def _speech_end_s(mel: torch.Tensor) -> float:
    """Where the last loud frame ends, in seconds, by the energy of the frames."""
    loudness_db = 10 * mel.mean(dim=0)
    loud = (loudness_db > loudness_db.max() - SPEECH_BELOW_PEAK_DB).nonzero()
    return float(loud[-1] + 1) / 100
