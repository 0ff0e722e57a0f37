"""The recipe: every setting of a training, and what stands for those left open at each model size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from idiolect.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to train. None means: by the model's size and the number of clips (`defaults_for`)."""

    epochs: float | None = None
    max_steps: int | None = None  # stops earlier than `epochs` would
    learning_rate: float | None = None
    decoder_rate_x: float | None = None  # the decoder's rate, times learning_rate
    new_words_rate_x: float | None = None  # … of embedding rows that the stock model never used
    new_words_apart: float | None = None  # first share of the steps in which new words teach their own rows alone
    batch_size: int | None = None  # clips
    position_budget: int = 6_000  # encoder positions a batch may hold: 16 clips of 7.5 s, or 4 full windows
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    full_share: float | None = None  # of the clips see the full 30 s window each epoch
    longer_share: float | None = None  # … and these some longer context
    timestamps_share: float | None = None  # of the clips have them
    mask_share: float = 1.0  # of the batches are masked (SpecAugment)
    noise_share: float | None = None  # of the clips are said in light noise (training.surroundings)
    echo_share: float | None = None  # … in a room that echoes
    stretch: float = 0.12  # speech is made up to this share faster or slower
    ctc_weight: float | None = None  # of the letters' loss beside the tokens' (training.ctc)
    splice_share: float | None = None  # of the clips have one word replaced (training.splicing); needs ctc_weight
    join_share: float | None = None  # of the clips are followed by another one, as if said in one breath
    seed: int = 0
    threads: int = 0  # 0: as torch chooses
    checkpoint_s: float = 120.0  # seconds between checkpoints, more where writing one takes long
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them; also where memory asks
    lora_rank: int = 0  # train low-rank adapters of this rank, merged before saving; 0: all weights

    @classmethod
    def of(cls, overrides: dict[str, Any]) -> Settings:
        """Defaults with `overrides` by field name. Raises UsageError for a name that is no setting."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in overrides:
            if name not in known:
                raise UsageError(f"unknown training setting {name!r}", f"known: {', '.join(sorted(known))}")
        return cls(**{name: value for name, value in overrides.items() if value is not None})

    def deciding(self) -> Settings:
        """Without what changes speed and memory alone."""
        return dataclasses.replace(self, threads=0, checkpoint_s=0.0, gradient_checkpointing=False)

    def digest(self) -> str:
        """SHA-256 of all settings: the recipe's name in a release."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


# d_model → epochs, learning rate, clips a step, the decoder's and new words' share of the rate, the letters' weight,
# the share of spliced clips, the share of the steps with new words apart.
# nano's decoder knows its few sentences by heart and must move slowly, or it forgets the words that one speaker seldom
# says; its rows of new words start from zero and must move fast; the letters keep it listening. The others follow
# OpenAI's own pre-training rates divided by about 40; what letters do for them was not measured.
_DEFAULTS = {
    128: (12.0, 1e-3, 4, 0.4, 8.0, 0.6, 0.4, 0.0),
    384: (6.0, 3e-5, 16, 1.0, 1.0, 0.0, 0.0, 0.0),
    512: (6.0, 2e-5, 16, 1.0, 1.0, 0.0, 0.0, 0.0),
    768: (5.0, 1e-5, 16, 1.0, 1.0, 0.0, 0.0, 0.0),
    1024: (4.0, 6e-6, 16, 1.0, 1.0, 0.0, 0.0, 0.0),
    1280: (3.0, 5e-6, 16, 1.0, 1.0, 0.0, 0.0, 0.0),
}
_SHARES = {
    "full_share": 0.01,
    "longer_share": 0.15,
    "join_share": 0.0,
    "timestamps_share": 0.5,  # with a quarter, a clip in fifty ran on in full windows with timestamps
}
# Not for nano: with both for a fifth of the clips, the human voice's held-out errors rose from 2.7 and 2.2 % to 3.3 and
# 3.7 % (two splits), and in noise of 10 dB stayed as many (one). What they do for the others was not measured.
_SURROUNDINGS = {"noise_share": 0.2, "echo_share": 0.2}
# Where nano has met every token, the rate that new ones need is too much of a good thing: the human voice's held-out
# digits, on five trainings (three splits, the first with three seeds), 34 % of stock's errors left at it, 27 % so. With
# timestamps for half of the clips, whisper.cpp heard them with 1.0 points more errors than without (three splits, f16
# and q4_0, both contexts: 3.7 and 2.7 %), for three in five with 0.6 (3.2 and 2.7 %), for three in four with none
# (3.4 and 3.6 %). What it gets wrong are digits said twice ("five five" heard as "five"), which more arrangements mend:
# of six further splits 3.9 % of the words came out wrong with each clip alone, 2.1 % with half of them followed by
# another, 1.8 % with 18 epochs of that (1.7 % of nine splits; 12 epochs: 2.2 %). Of sentences it mends nothing: the
# synthetic voice's hundred without new words came to 2.6 % with each clip alone, 3.1 % so (three splits, of some 160
# words each), and with its new words it loses (5.9 % became 8 to 10 %). With fewer clips nothing was measured apart.
_KNOWN_TOKENS = {"learning_rate": 5e-4, "splice_share": 0.0, "timestamps_share": 0.6, "join_share": 0.5, "epochs": 18.0}
MANY_CLIPS, SEVERAL_CLIPS = 80, 32
MOST_EPOCHS = 24.0
MIN_STEPS = 60  # or more, of other models, within MOST_EPOCHS: six epochs of ten clips would be six steps; not measured
_DEFAULT_NAMES = (
    "epochs learning_rate batch_size decoder_rate_x new_words_rate_x ctc_weight splice_share new_words_apart"
).split()


def defaults_for(settings: Settings, d_model: int, clips: int = MANY_CLIPS, *, new_tokens: bool = True) -> Settings:
    """`settings` with what is None filled in for a model of this width that learns from so many clips, whose texts hold
    tokens that it never met (new words, for nano also capitals and full stops), or none."""
    defaults = _SHARES | dict(zip(_DEFAULT_NAMES, _DEFAULTS.get(d_model, _DEFAULTS[768]), strict=True))
    defaults |= dict.fromkeys(_SURROUNDINGS, 0.0) if d_model == 128 else _SURROUNDINGS
    if d_model == 128 and clips < MANY_CLIPS:
        defaults |= _gentle(clips)
    elif d_model == 128 and not new_tokens:
        defaults |= _KNOWN_TOKENS
    elif d_model != 128:
        fewest = MIN_STEPS * (settings.batch_size or defaults["batch_size"]) / clips
        defaults["epochs"] = max(defaults["epochs"], min(MOST_EPOCHS, fewest))
    missing: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def _gentle(clips: int) -> dict[str, float]:
    """For nano and few clips: at the full rate ten of them make more errors than they mend. Each clip is heard more
    often instead, and in more contexts, or the short ones that apps use are worse than the full window. Words are not
    spliced: the letters' head learns too little from so few to say where they lie (2 nats a letter after half of the
    steps), and what is cut wrong teaches the decoder not to listen.

    With very few, nearly all of the loss is that of the new words, whose rows are empty: before they are filled, their
    gradient drags everything the model knows after words that it cannot say yet, and a clip of fifty runs on in loops.
    So they only teach their own rows.
    """
    very_few = clips < SEVERAL_CLIPS
    return {
        "epochs": min(MOST_EPOCHS, 12.0 * MANY_CLIPS / clips),
        "learning_rate": (8.3e-6 if very_few else 1.16e-5) * clips,
        "new_words_rate_x": 16.0,
        "new_words_apart": 1.0 if very_few else 0.0,
        "ctc_weight": 0.3,
        "splice_share": 0.0,
        "full_share": 0.05,
        "longer_share": 0.5,
        "timestamps_share": 0.75,
    }
