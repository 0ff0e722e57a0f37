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
from training.decode import encode, load_model
from training.examples import IGNORED, Example, ExampleMaker, collate, draw_contexts, hide_tokens
from training.features import mask_spectrum, plan_batches, stack, stretch

if TYPE_CHECKING:
    import torch

    from idiolect.transcriber import Pcm


@dataclass(frozen=True)
class Settings:
    """How to train. None means: by the model's size (`defaults_for`)."""

    epochs: float | None = None
    max_steps: int | None = None  # stops earlier than `epochs` would
    learning_rate: float | None = None
    embedding_rate_x: float | None = None  # the token embedding's rate, times learning_rate
    batch_size: int = 16  # clips
    position_budget: int = 6_000  # encoder positions a batch may hold: 16 clips of 7.5 s, or 4 full windows
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    full_share: float = 0.06  # of the clips see the full 30 s window each epoch
    longer_share: float = 0.1  # … and these some longer context
    timestamps_share: float = 0.25
    mask_share: float = 0.5  # of the batches are masked (SpecAugment)
    stretch: float = 0.0  # speech is made up to this share faster or slower
    token_drop: float = 0.0  # of the words fed to the decoder are hidden, so that it listens instead of guessing
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


# d_model → learning rate, epochs. nano's embedding rows of unmet words are zero, which wants a high rate;
# the others follow OpenAI's own pre-training rates divided by about 40.
_DEFAULTS = {
    128: (1e-3, 10.0),
    384: (3e-5, 6.0),
    512: (2e-5, 6.0),
    768: (1e-5, 5.0),
    1024: (6e-6, 4.0),
    1280: (5e-6, 3.0),
}


def defaults_for(settings: Settings, d_model: int) -> Settings:
    """`settings` with learning rate and epochs filled in for a model of this width."""
    rate, epochs = _DEFAULTS.get(d_model, (1e-5, 5.0))
    return dataclasses.replace(
        settings,
        learning_rate=settings.learning_rate if settings.learning_rate is not None else rate,
        epochs=settings.epochs if settings.epochs is not None else epochs,
    )


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
    best_select_loss: float
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
    started = time.monotonic()
    run.train()
    run.train_s += time.monotonic() - started
    save_checkpoint(run, base, out)
    return Outcome(
        checkpoint=out,
        settings=settings,
        clips=len(train),
        audio_s=sum(example.duration_s for example in train),
        steps=run.step,
        train_s=run.train_s,
        best_select_loss=run.best_loss,
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

        from idiolect.whisper import special_tokens

        if settings.threads:
            torch.set_num_threads(settings.threads)
        _keep_freed_memory()
        self.settings, self.train_set, self.select_set = settings, train, select
        self.state_dir, self.reporter = state_dir, reporter
        self.special = special_tokens(model.config.vocab_size)
        self.accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
        model.config.use_cache = False
        optimizer = torch.optim.AdamW(_parameter_groups(model, settings), betas=(0.9, 0.98), fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        tokens = sum(len(example.tokens) + 1 for example in train) / len(train)
        self.nominal_tokens = tokens * min(settings.batch_size, len(train))
        self.total_steps = sum(1 for epoch in range(math.ceil(settings.epochs or 1)) for _ in self._epoch(epoch))
        if settings.epochs and settings.epochs % 1:
            self.total_steps = round(self.total_steps * settings.epochs / math.ceil(settings.epochs))
        self.total_steps = max(1, min(self.total_steps, settings.max_steps or self.total_steps))
        self.step = 0
        self.best_loss = math.inf
        self.train_s = 0.0
        self.fingerprint = self._fingerprint()

    def train(self) -> None:
        """Go on from `step` to the end. Raises JobStopped, after saving, when asked to stop."""
        from training.finetune_state import save_state

        saved = time.monotonic()
        begun, first_step, epoch_first = time.monotonic(), self.step, 0
        for epoch in range(math.ceil(self.settings.epochs or 1)):
            batches = list(self._epoch(epoch))
            for index, batch in enumerate(batches):
                if epoch_first + index < self.step or self.step >= self.total_steps:
                    continue
                if self.reporter.stop.is_set() or time.monotonic() - saved > self.settings.checkpoint_s:
                    self.train_s += time.monotonic() - begun
                    begun = saved = time.monotonic()
                    save_state(self)
                    self.reporter.check_stop()
                loss = self._optimise(batch)
                self.step += 1
                self.reporter.progress(self.step, self.total_steps, "steps")
                if self.step % 10 == 0 or self.step == self.total_steps:
                    self.reporter.metric(step=self.step, loss=loss, learning_rate=self._learning_rate())
            epoch_first += len(batches)
            if epoch_first > first_step and self.step <= self.total_steps and epoch_first <= self.total_steps:
                self._keep_if_best()
        if self.best_loss == math.inf:
            self._keep_if_best()

    def _epoch(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Batches of (clip index, context in positions) for one epoch."""
        rng = random.Random(f"{self.settings.seed}-{epoch}")
        contexts = draw_contexts(
            [example.positions for example in self.train_set], self.settings.full_share, self.settings.longer_share, rng
        )
        for batch in plan_batches(contexts, self.settings.batch_size, self.settings.position_budget, rng):
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

    def _loss(self, batch: Sequence[tuple[int, int]], rng: random.Random | None) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy of a batch and its number of tokens; augmented when there is an `rng`."""
        import torch

        clips = [(self.train_set if rng else self.select_set)[index] for index, _ in batch]
        factors = [rng.uniform(1 - self.settings.stretch, 1 + self.settings.stretch) if rng else 1.0 for _ in clips]
        mels = [stretch(clip.mel.float(), factor) for clip, factor in zip(clips, factors, strict=True)]
        features = stack(mels, min(1500, max(context for _, context in batch)))
        if rng and rng.random() < self.settings.mask_share:
            mask_spectrum(features, rng)
        timestamps = [bool(rng and rng.random() < self.settings.timestamps_share) for _ in clips]
        inputs, labels = collate(clips, self.special, timestamps)
        if rng:
            hide_tokens(inputs, self.special, self.settings.token_drop, rng)
        device = self.accelerator.device
        with self.accelerator.autocast():
            model = self.accelerator.unwrap_model(self.model)
            hidden = encode(model, features.to(device))
            states = model.model.decoder(
                input_ids=inputs.to(device), encoder_hidden_states=hidden, use_cache=False
            ).last_hidden_state
            wanted = labels != IGNORED  # the vocabulary is wide: only project where there is something to learn
            logits = model.proj_out(states[wanted.to(device)])
        targets = labels[wanted].to(device)
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"), int(wanted.sum())

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        peak = self.settings.learning_rate or 0.0
        warmup = max(1, round(self.settings.warmup_share * self.total_steps))
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.total_steps - warmup)
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def _keep_if_best(self) -> None:
        from training.finetune_state import save_best

        loss = self._select_loss()
        self.reporter.metric(step=self.step, select_loss=loss)
        if loss < self.best_loss or not self.select_set:
            self.best_loss = loss
            save_best(self)

    def _select_loss(self) -> float:
        """Loss per token on the select clips at their own length (+ 32 positions); 0 where there are none."""
        import torch

        self.model.eval()
        total, tokens = 0.0, 0
        positions = [min(1500, example.positions + 32) for example in self.select_set]
        for batch in plan_batches(positions, 32, self.settings.position_budget, random.Random(0)):
            with torch.no_grad():
                loss, count = self._loss([(index, positions[index]) for index in batch], None)
            total, tokens = total + float(loss), tokens + count
        return total / tokens if tokens else 0.0

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
    from idiolect.whisper import special_tokens

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
    embedding = model.model.decoder.embed_tokens.weight
    decayed: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter is not embedding:
            (decayed if parameter.ndim > 1 and "embed" not in name else others).append(parameter)
    return [
        {"params": decayed, "rate_x": 1.0, "weight_decay": settings.weight_decay},
        {"params": others, "rate_x": 1.0, "weight_decay": 0.0},
        {"params": [embedding], "rate_x": settings.embedding_rate_x or 1.0, "weight_decay": 0.0},
    ]


__all__ = ["JobStopped", "Outcome", "Settings", "Source", "defaults_for", "finetune"]
