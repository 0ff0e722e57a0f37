"""The training loop: from stock weights, over all clips at their true length, to what does best on *select*.

Everything random follows from (seed, epoch, step), so that a run continued from a checkpoint is the same run.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.child import Reporter
from idiolect.errors import DatasetError, JobError, JobStopped, UsageError
from idiolect.whisper import MAX_POSITIONS, special_tokens
from training import ctc, rows
from training.ctc import CtcHead
from training.decode import encode, greedy, load_model
from training.examples import IGNORED, Example, ExampleMaker, collate, draw_contexts, stretched
from training.features import mask_spectrum, plan_batches, stack
from training.rows import Rows

if TYPE_CHECKING:
    import torch

    from idiolect.transcriber import Pcm


MAX_SELECT_CLIPS = 64  # enough to choose a checkpoint; decoding them after each epoch must stay cheap


@dataclass(frozen=True)
class Settings:
    """How to train. None means: by the model's size (`defaults_for`)."""

    epochs: float | None = None
    max_steps: int | None = None  # stops earlier than `epochs` would
    learning_rate: float | None = None
    decoder_rate_x: float | None = None  # the decoder's rate, times learning_rate
    new_words_rate_x: float | None = None  # … of embedding rows that the stock model never used
    batch_size: int | None = None  # clips
    position_budget: int = 6_000  # encoder positions a batch may hold: 16 clips of 7.5 s, or 4 full windows
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    full_share: float = 0.01  # of the clips see the full 30 s window each epoch
    longer_share: float = 0.15  # … and these some longer context
    timestamps_share: float = 0.25
    mask_share: float = 1.0  # of the batches are masked (SpecAugment)
    stretch: float = 0.12  # speech is made up to this share faster or slower
    ctc_weight: float | None = None  # of the letters' loss beside the tokens' (training.ctc)
    seed: int = 0
    threads: int = 0  # 0: as torch chooses
    checkpoint_s: float = 120.0  # seconds between checkpoints

    @classmethod
    def of(cls, overrides: dict[str, Any]) -> Settings:
        """Defaults with `overrides` by field name. Raises UsageError for a name that is no setting."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in overrides:
            if name not in known:
                raise UsageError(f"unknown training setting {name!r}", f"known: {', '.join(sorted(known))}")
        return cls(**{name: value for name, value in overrides.items() if value is not None})

    def digest(self) -> str:
        """SHA-256 of all settings: the recipe's name in a release."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


# d_model → epochs, learning rate, clips a step, the decoder's and new words' share of the rate, the letters' weight.
# nano's decoder knows its few sentences by heart and must move slowly, or it forgets the words that one speaker seldom
# says; its rows of new words start from zero and must move fast; the letters keep it listening. The others follow
# OpenAI's own pre-training rates divided by about 40; what letters do for them was not measured.
_DEFAULTS = {
    128: (12.0, 1e-3, 4, 0.4, 8.0, 0.6),
    384: (6.0, 3e-5, 16, 1.0, 1.0, 0.0),
    512: (6.0, 2e-5, 16, 1.0, 1.0, 0.0),
    768: (5.0, 1e-5, 16, 1.0, 1.0, 0.0),
    1024: (4.0, 6e-6, 16, 1.0, 1.0, 0.0),
    1280: (3.0, 5e-6, 16, 1.0, 1.0, 0.0),
}
_DEFAULT_NAMES = ("epochs", "learning_rate", "batch_size", "decoder_rate_x", "new_words_rate_x", "ctc_weight")


def defaults_for(settings: Settings, d_model: int) -> Settings:
    """`settings` with what is None filled in for a model of this width."""
    defaults = dict(zip(_DEFAULT_NAMES, _DEFAULTS.get(d_model, _DEFAULTS[768]), strict=True))
    missing: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


@dataclass(frozen=True)
class Source:
    """One clip to train on: its PCM (1-D float32, 16 kHz), text, language; `select` clips choose the checkpoint."""

    name: str
    pcm: Pcm
    text: str
    language: str
    select: bool


@dataclass(frozen=True)
class Outcome:
    """What came of it. `skipped` lists clips left out, each "file: reason"."""

    checkpoint: Path
    settings: Settings
    clips: int
    audio_s: float
    steps: int
    train_s: float
    best_select_errors: float
    skipped: tuple[str, ...]


def finetune(
    base: Path, sources: Sequence[Source], out: Path, settings: Settings, reporter: Reporter | None = None
) -> Outcome:
    """Fine-tune the Hugging Face folder `base` on `sources` and write the folder `out`, whole or not at all.

    Continues from `<out>.state` where an interrupted run with the same settings and clips left it. Raises JobStopped
    when asked to stop (after saving), DatasetError when no clip can be used, CheckpointError for a bad base.
    """
    from training.finetune_state import load_state, save_checkpoint

    reporter = reporter or Reporter()
    model, tokenizer = load_model(base)
    settings = defaults_for(settings, model.config.d_model)
    train, select, skipped = _examples(model, tokenizer, sources, reporter)
    if not train:
        raise DatasetError(
            f"none of {len(sources)} clips can be trained on",
            skipped[0] if skipped else "add recordings with transcripts",
        )
    for line in skipped:
        reporter.warning(f"left out {line}")
    run = _Run(model, train, select, settings, out.with_name(out.name + ".state"), reporter)
    load_state(run)
    run.train()
    save_checkpoint(run, base, out)
    return Outcome(
        checkpoint=out,
        settings=settings,
        clips=len(train),
        audio_s=sum(example.duration_s for example in train),
        steps=run.step,
        train_s=run.train_s,
        best_select_errors=run.best_errors,
        skipped=tuple(skipped),
    )


class _Run:
    """A model in training: where it is, and the way on."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        train: Sequence[Example],
        select: Sequence[Example],
        settings: Settings,
        state_dir: Path,
        reporter: Reporter,
    ) -> None:
        import torch
        from accelerate import Accelerator

        if settings.threads:
            torch.set_num_threads(settings.threads)
        _keep_freed_memory()
        self.settings, self.train_set, self.select_set = settings, train, select
        self.state_dir, self.reporter = state_dir, reporter
        self.special = special_tokens(model.config.vocab_size)
        self.accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
        model.config.use_cache = False
        self.rows = Rows(model, {token for example in (*train, *select) for token in example.tokens})
        self.letters = (
            CtcHead(model.model.encoder, {example.letters for example in train}) if settings.ctc_weight else None
        )
        groups = _parameter_groups(model, settings)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        for layer in (*model.model.encoder.layers, *model.model.decoder.layers):  # a large model's step takes minutes
            layer.register_forward_pre_hook(self._stop_here)
            layer.register_full_backward_pre_hook(self._stop_here)
        tokens = sum(len(example.tokens) + 1 for example in train) / len(train)
        self.nominal_tokens = tokens * min(settings.batch_size or 1, len(train))
        self.total_steps = sum(1 for epoch in range(math.ceil(settings.epochs or 1)) for _ in self._epoch(epoch))
        if settings.epochs and settings.epochs % 1:
            self.total_steps = round(self.total_steps * settings.epochs / math.ceil(settings.epochs))
        self.total_steps = max(1, min(self.total_steps, settings.max_steps or self.total_steps))
        self.step = self.judged_step = 0
        self.best_errors = math.inf
        self.train_s = 0.0
        self.fingerprint = self._fingerprint()

    def train(self) -> None:
        """Go on from `step` to the end. Raises JobStopped, after saving, when told to (`_stop_here`)."""
        from training.finetune_state import save_state

        began = time.monotonic()
        try:
            for epoch in self._epochs():
                for batch in epoch:
                    if time.monotonic() - began > self.settings.checkpoint_s:
                        self.train_s += time.monotonic() - began
                        began = time.monotonic()
                        save_state(self)
                    loss = self._optimise(batch)
                    self.step += 1
                    self.reporter.progress(self.step, self.total_steps, "steps")
                    if self.step % 10 == 0 or self.step == self.total_steps:
                        self.reporter.metric(step=self.step, loss=loss, learning_rate=self._learning_rate())
                # the first half is never the best, and judging takes as long as some steps
                if self.judged_step < self.step and self.step > self.total_steps / 2:
                    self._keep_if_best()
        except JobStopped:
            self.train_s += time.monotonic() - began
            save_state(self)
            raise
        self.train_s += time.monotonic() - began

    def _epochs(self) -> Iterator[list[list[tuple[int, int]]]]:
        """The batches still to do, epoch by epoch; an epoch that was done but not judged comes back empty."""
        end = 0
        for epoch in range(math.ceil(self.settings.epochs or 1)):
            batches = list(self._epoch(epoch))
            first, end = end, end + len(batches)
            if end >= self.step and first < self.total_steps:
                yield batches[max(0, self.step - first) : self.total_steps - first]

    def _epoch(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of (clip index, context in positions) for one epoch."""
        rng = random.Random(f"{self.settings.seed}-{epoch}")
        contexts = draw_contexts(
            [example.positions for example in self.train_set], self.settings.full_share, self.settings.longer_share, rng
        )
        for batch in plan_batches(contexts, self.settings.batch_size or 1, self.settings.position_budget, rng):
            yield [(index, contexts[index]) for index in batch]

    def _optimise(self, batch: Sequence[tuple[int, int]]) -> float:
        """One optimiser step; the batch's loss per token."""
        rng = random.Random(f"{self.settings.seed}-step-{self.step}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate() * group["rate_x"]
        self.model.train()
        loss, tokens = self._loss(batch, rng)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobError(f"training diverged at step {self.step}: the loss is {value}", "lower the learning rate")
        # by the usual number of tokens, not this batch's: each clip weighs the same however small its batch is
        self.accelerator.backward(loss / self.nominal_tokens)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value / max(1, tokens)

    def _loss(self, batch: Sequence[tuple[int, int]], rng: random.Random) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy of an augmented batch, and its number of tokens."""
        import torch

        spread = self.settings.stretch
        clips = [stretched(self.train_set[index], rng.uniform(1 - spread, 1 + spread)) for index, _ in batch]
        room = max(context - self.train_set[index].positions for index, context in batch)
        positions = min(MAX_POSITIONS, max(clip.positions for clip in clips) + room)
        features = stack([clip.mel for clip in clips], positions)
        if rng.random() < self.settings.mask_share:
            mask_spectrum(features, rng)
        timestamps = [rng.random() < self.settings.timestamps_share for _ in clips]
        inputs, labels = collate(clips, self.special, timestamps)
        device = self.accelerator.device
        with self.accelerator.autocast():
            model = self.accelerator.unwrap_model(self.model)
            hidden = encode(model, features.to(device))
            states = model.model.decoder(
                inputs_embeds=self.rows.embed(inputs.to(device)), encoder_hidden_states=hidden, use_cache=False
            ).last_hidden_state
            wanted = labels != IGNORED  # the vocabulary is wide: only project where there is something to learn
            logits = self.rows.logits(states[wanted.to(device)])
            targets = self.rows.places(labels[wanted].to(device))
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
            if self.letters:
                spelled = self.letters.loss(hidden, [clip.letters for clip in clips])
                weights = torch.tensor([len(clip.tokens) for clip in clips], device=device)
                loss = loss + (self.settings.ctc_weight or 0.0) * (spelled * weights).sum()
        return loss, int(wanted.sum())

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        peak = self.settings.learning_rate or 0.0
        warmup = max(1, round(self.settings.warmup_share * self.total_steps))
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.total_steps - warmup)
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def _keep_if_best(self) -> None:
        """Judge the present weights on the select clips, and keep them when they are the best so far."""
        from training.finetune_state import save_best

        self.rows.write_back()
        errors, tokens = self._select_errors()
        self.judged_step = self.step
        self.reporter.metric(step=self.step, select_errors=errors)
        # A later model replaces one that is better by chance alone: a few clips cannot tell them apart.
        chance = math.sqrt(errors * max(0.0, 1 - errors) / tokens) if tokens else 0.0
        if errors <= self.best_errors + chance:
            save_best(self)
        self.best_errors = min(self.best_errors, errors)

    def _select_errors(self) -> tuple[float, int]:
        """Token errors per token on the select clips, decoded greedily at their own length, and the tokens.

        Greedy decoding, because a model can be sure of every next word and still run away from the audio.
        """
        import torch
        from rapidfuzz.distance import Levenshtein

        model = self.accelerator.unwrap_model(self.model).eval()
        chosen = self.select_set[:MAX_SELECT_CLIPS]
        errors, tokens = 0, sum(len(example.tokens) for example in chosen)
        for language in {example.language for example in chosen}:
            clips = [example for example in chosen if example.language == language]
            positions = [min(MAX_POSITIONS, clip.positions + 32) for clip in clips]
            prompt = self.special.prompt(language)
            for batch in plan_batches(positions, 32, self.settings.position_budget, random.Random(0)):
                here = [clips[index] for index in batch]
                longest = max(len(clip.tokens) for clip in here)
                features = stack([clip.mel.float() for clip in here], max(positions[index] for index in batch))
                with torch.inference_mode():
                    hidden = encode(model, features.to(self.accelerator.device))
                    heard = greedy(model, hidden, prompt, self.special.eot, max_new_tokens=2 * longest + 8)
                errors += sum(Levenshtein.distance(clip.tokens, row) for clip, row in zip(here, heard, strict=True))
        return (errors / tokens if tokens else 0.0), tokens

    def _stop_here(self, *_: object) -> None:
        """Hook of every layer: a step that is asked to stop is left undone, which changes no weight."""
        self.reporter.check_stop()

    def _fingerprint(self) -> str:
        """What a checkpoint must have been trained with to be continued."""
        content = [self.settings.digest(), self.model.config.d_model, self.model.config.encoder_layers]
        content += [(e.name, e.tokens, e.positions) for e in (*self.train_set, *self.select_set)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _examples(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    sources: Sequence[Source],
    reporter: Reporter,
) -> tuple[list[Example], list[Example], list[str]]:
    make = ExampleMaker(tokenizer, special_tokens(model.config.vocab_size), model.config.num_mel_bins)
    train: list[Example] = []
    select: list[Example] = []
    skipped: list[str] = []
    for done, source in enumerate(sources):
        reporter.check_stop()
        try:
            (select if source.select else train).append(make(source.name, source.pcm, source.text, source.language))
        except DatasetError as error:
            skipped.append(f"{source.name}: {error.message}")
        reporter.progress(done + 1, len(sources), "clips")
    return train, select, skipped


def _keep_freed_memory() -> None:
    """Ask glibc not to give every freed gradient back to the kernel: zeroed pages cost a fifth of a step on CPU."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(ctypes.c_int(-3), ctypes.c_int(32 << 20))  # M_MMAP_THRESHOLD, at its largest
        mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD


def _parameter_groups(model: Any, settings: Settings) -> list[dict[str, Any]]:  # noqa: ANN401
    """Weight decay on matrices only; the encoder's position table is fixed sinusoids and stays."""
    model.model.encoder.embed_positions.requires_grad_(False)
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
            groups.setdefault((_rate_x(name, settings), decay), []).append(parameter)
    return [{"params": found, "rate_x": x, "weight_decay": decay} for (x, decay), found in groups.items()]


def _rate_x(name: str, settings: Settings) -> float:
    """A parameter's share of the learning rate."""
    if name.endswith(rows.NEW):
        return settings.new_words_rate_x or 1.0
    if name.endswith(ctc.NAMES):
        return ctc.HEAD_RATE_X
    return (settings.decoder_rate_x or 1.0) if "decoder" in name else 1.0
