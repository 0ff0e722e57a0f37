"""The training loop: a model, its clips, where it is, and the way on.

Everything random follows from (seed, epoch, step), so that a run continued from a checkpoint is the same run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from idiolect.child import Reporter
from idiolect.errors import JobError, JobStopped
from idiolect.whisper import special_tokens
from training import ctc, finetune_state, lora, memory, rows
from training.averaging import Average
from training.batches import Batch, BatchLoss, draw_batch
from training.ctc import CtcHead
from training.decode import encode
from training.epoch import Turn, plan_epoch
from training.examples import Example, joined, possible_tokens
from training.features import stack
from training.processes import Processes
from training.recipe import Settings
from training.rows import Rows
from training.selection import Selection
from training.splicing import Splicer

SPLICE_AFTER = 0.25  # of the steps the letters' head knows where words lie
MEASURED_STEPS = 10  # after the first, which is slower; then the time left is told
BF16_FROM_WIDTH = 384  # tiny
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
WAIT = timedelta(hours=6)  # of several processes, for the one that scores a model before the next one
MIN_SAVE_SPACING_X = 20  # checkpoints take at most a twentieth of the time, however slow the disk


class Diverged(JobError):
    """The loss or its gradient is no number any more."""


class Run:
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

        if settings.threads:
            torch.set_num_threads(settings.threads)
        _keep_freed_memory()
        self.settings, self.train_set, self.select_set, self.reporter = settings, train, select, reporter
        self.special = special_tokens(model.config.vocab_size)
        self.fingerprint = self._fingerprint(model)
        self.state_dir = state_dir / finetune_state.folder_name(self.fingerprint)
        self.selection = Selection(select, self.special, settings.position_budget, reporter)
        self.accelerator = _accelerator()
        self.bf16_on_cpu = _bf16_on_cpu(self.accelerator, model.config.d_model)
        self.processes = Processes(self.accelerator)
        model.config.use_cache = False
        spread, timed = settings.stretch, bool(settings.timestamps_share)
        pairs = self._plan_steps()
        # one after the other: joining copies the log-mel, and what is joined in all epochs is many times the clips
        texts = itertools.chain(train, select, (joined([train[index] for index in pair]) for pair in pairs))
        self.rows = Rows(model, {t for example in texts for t in possible_tokens(example, self.special, spread, timed)})
        if settings.lora_rank:
            lora.add_adapters(model, settings.lora_rank, settings.seed)
        spelled = {example.letters for example in train} | ({" "} if pairs else set())
        letters = CtcHead(model.model.encoder, spelled) if settings.ctc_weight else None
        self.letters, self.splicer = letters, Splicer(train, self.rows.new_tokens)
        self.model = model.to(self.accelerator.device)
        self.batch_loss = BatchLoss(model, self.rows, letters, settings.ctc_weight or 0.0)
        groups = _parameter_groups(model, settings)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = self.accelerator.prepare(torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True))
        if self.processes.count == 1:  # several must stop at the same step
            self._stop_within_steps()
        tokens = sum(len(example.tokens) + 1 for example in train) / len(train)
        self.nominal_tokens = tokens * min(settings.batch_size or 1, len(train))
        self.average = Average(self.trained, self.total_steps)
        self._fit_memory()
        self.step = self.judged_step = 0
        self.best_errors = math.inf
        self.train_s = 0.0
        self.rate_x = 1.0  # halved after the loss diverged
        self.saved_step, self.is_latest_whole = 0, True  # the step of the newest checkpoint, and whether it can be read

    def train(self) -> None:
        """Go on from `step` to the end. Raises JobStopped, after saving, when told to, and Diverged."""
        began = time.monotonic()
        save_after_s = self.settings.checkpoint_s
        pace = _Pace(self)
        try:
            for epoch in self._epochs():
                for batch in epoch:
                    if time.monotonic() - began > save_after_s:
                        self.train_s += time.monotonic() - began
                        began = time.monotonic()
                        self._save()
                        save_after_s = max(save_after_s, MIN_SAVE_SPACING_X * (time.monotonic() - began))
                    loss = self._optimise(batch)
                    self.step += 1
                    self.average.take(self.step)
                    self.reporter.progress(self.step, self.total_steps, "steps")
                    if self.step % 10 == 0 or self.step == self.total_steps:
                        self.reporter.metric(step=self.step, loss=loss, learning_rate=self._learning_rate())
                    pace.tell()
                # the first half is never the best, and judging takes as long as some steps
                if self.judged_step < self.step and self.step > self.total_steps / 2:
                    self._keep_if_best()
            self.average.put()
            self._keep_if_best()
        except JobStopped:
            self.train_s += time.monotonic() - began
            self._save()
            raise
        self.train_s += time.monotonic() - began

    def _save(self) -> None:
        """A checkpoint; where the disk does not take it, the one before stays and the training goes on."""
        if self.processes.main and self.step != self.saved_step:  # twice the same would push out the one before
            try:
                finetune_state.save_state(self)
                self.saved_step = self.step
            except OSError as error:
                reason = error.strerror or error
                self.reporter.warning(f"no checkpoint at step {self.step}: {self.state_dir}: {reason}")

    def _plan_steps(self) -> set[tuple[int, ...]]:
        """Count the steps, and the positions and tokens of each, from which follow time and memory; what is joined."""
        batches = [batch for epoch in range(math.ceil(self.settings.epochs or 1)) for batch in self._epoch(epoch)]
        self.total_steps = len(batches)
        if self.settings.epochs and self.settings.epochs % 1:
            self.total_steps = round(self.total_steps * self.settings.epochs / math.ceil(self.settings.epochs))
        self.total_steps = max(1, min(self.total_steps, self.settings.max_steps or self.total_steps))
        batches = batches[: self.total_steps]
        self.positions = [len(batch) * max(turn.context for turn in batch) for batch in batches]
        around = 6  # prompt, timestamps, end of text
        self.tokens = [
            len(batch) * (around + max(sum(len(self.train_set[i].tokens) for i in turn.clips) for turn in batch))
            for batch in batches
        ]
        return {turn.clips for batch in batches for turn in batch if len(turn.clips) > 1}

    def _fit_memory(self) -> None:
        """Choose how much of a batch is computed at once, and whether activations are kept, by the memory at hand."""
        need = memory.Need(
            memory.Shape.of(self.model, len(self.rows), self.trained),
            positions=math.ceil(max(self.positions) / self.processes.count),
            tokens=math.ceil(max(self.tokens) / self.processes.count),
            half=self.bf16_on_cpu or self.accelerator.mixed_precision != "no",
            recompute=self.settings.gradient_checkpointing,
        )
        at_hand = memory.at_hand_bytes(self.accelerator.device)
        fitted = memory.fit(need, at_hand)
        self.part_positions = fitted.positions
        if fitted.recompute:
            self._recompute()
        estimate = memory.estimate_peak_bytes(fitted)
        self.reporter.metric(estimated_bytes=estimate, memory_bytes=at_hand, steps=self.total_steps)
        if estimate > at_hand:
            self.reporter.warning(
                f"training needs about {estimate / 1e9:.1f} GB of memory and {at_hand / 1e9:.1f} GB are free: "
                "choose a smaller tier, or train adapters alone (--lora; in config.toml: lora)"
            )

    def _recompute(self) -> None:
        self.recomputes = True
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    recomputes = False

    def _epochs(self) -> Iterator[list[list[Turn]]]:
        """The batches still to do, epoch by epoch; an epoch that was done but not judged comes back empty."""
        end = 0
        for epoch in range(math.ceil(self.settings.epochs or 1)):
            batches = self._epoch(epoch)
            first, end = end, end + len(batches)
            if end >= self.step and first < self.total_steps:
                yield batches[max(0, self.step - first) : self.total_steps - first]

    def _epoch(self, epoch: int) -> list[list[Turn]]:
        return plan_epoch(self.train_set, self.settings, random.Random(f"{self.settings.seed}-{epoch}"))

    def _optimise(self, turns: Sequence[Turn]) -> float:
        """One optimiser step; the batch's loss per token."""
        if self.processes.count > 1 and any(self.processes.sum(float(self.reporter.stop.is_set()))):
            self.reporter.stop.set()
            self.reporter.check_stop()
        rng = random.Random(f"{self.settings.seed}-step-{self.step}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate() * group["rate_x"]
        if self.letters and self.settings.splice_share and self._is_time_to_splice():
            self._find_words(self.letters)
        self.batch_loss.new_words_apart = self.step < (self.settings.new_words_apart or 0.0) * self.total_steps
        self.model.train()
        clips = [(joined([self._said(index, rng) for index in turn.clips]), turn.context) for turn in turns]
        batch = draw_batch(clips, self.special, self.settings, rng)
        while (loss := self._gradients(batch)) is None:
            self._use_less_memory(batch)
        if not math.isfinite(loss):
            raise Diverged(f"training diverged at step {self.step}: the loss is {loss}")
        self.processes.sum_gradients(self.trained)
        norm = self.accelerator.clip_grad_norm_(self.trained, self.settings.clip_norm)
        if self.accelerator.scaler is None and not math.isfinite(norm):  # a scaler leaves such steps out itself
            raise Diverged(f"training diverged at step {self.step}: the gradient is {float(norm)}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss / max(1, batch.tokens)

    def _said(self, index: int, rng: random.Random) -> Example:
        """A clip as it was said, or spliced."""
        if self.splicer.cuts and rng.random() < (self.settings.splice_share or 0.0):
            return self.splicer.spliced(index, rng)
        return self.train_set[index]

    def _is_time_to_splice(self) -> bool:
        return not self.splicer.cuts and self.step >= SPLICE_AFTER * self.total_steps

    def _find_words(self, letters: CtcHead) -> None:
        import torch

        def log_probs(example: Example) -> Any:  # noqa: ANN401
            features = stack([example.mel.float()], example.positions).to(self.accelerator.device)
            return letters.log_probs(encode(self.model, features))[0].cpu().numpy()

        self.model.eval()
        with torch.inference_mode():
            self.splicer.cut(log_probs, letters.labels)

    def _gradients(self, batch: Batch) -> float | None:
        """Gradients of this process's share, part by part; the whole batch's loss. None: a process lacks the memory."""
        value, failed = 0.0, 0
        try:
            mine = batch.rows(self.processes.share)
            for part in mine.parts(self.part_positions):
                with self._autocast():
                    loss = self.batch_loss(part)
                value += float(loss.detach())
                if not math.isfinite(value):
                    break
                # by the tokens that clips have on average, not this batch's: each weighs the same whatever its batch
                self.accelerator.backward(loss / self.nominal_tokens)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_shortage(error):
                raise
            failed = 1
        value, failures = self.processes.sum(value, failed)
        return None if failures else value

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast("cpu", torch.bfloat16) if self.bf16_on_cpu else self.accelerator.autocast()

    def _use_less_memory(self, batch: Batch) -> None:
        """After a shortage: half as many positions at once, then no kept activations. Raises JobError after that."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        one_clip = batch.features.shape[2] // 2
        share = math.ceil(len(batch.clips) / self.processes.count) * one_clip
        if min(self.part_positions, share) >= 2 * one_clip:
            self.part_positions = min(self.part_positions, share) // 2
            told = f"half as much at once from now on ({self.part_positions} positions); batches stay as large"
        elif not self.recomputes:
            self._recompute()
            told = "activations are computed twice from now on, which takes longer"
        else:
            raise JobError(
                f"out of memory at step {self.step}, with one clip at a time",
                "close other programs, choose a smaller tier, or train adapters alone (--lora; in config.toml: lora)",
            )
        self.reporter.warning(f"out of memory at step {self.step}: {told}")

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        peak = (self.settings.learning_rate or 0.0) * self.rate_x
        warmup = max(1, round(self.settings.warmup_share * self.total_steps))
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.total_steps - warmup)
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))

    def _keep_if_best(self) -> None:
        """Judge the present weights on the select clips, and keep them when they are the best so far."""
        self.rows.write_back()
        errors, chance = self.processes.from_main(self.selection.errors(self.model) if self.processes.main else None)
        self.judged_step = self.step
        self.reporter.metric(step=self.step, select_errors=errors)
        # A later model replaces one that is better by chance alone: a few clips cannot tell them apart.
        if errors <= self.best_errors + chance and self.processes.main:
            finetune_state.save_best(self)
        self.best_errors = min(self.best_errors, errors)

    def _stop_within_steps(self) -> None:
        """Let a stop take effect within a step: a large model's is slow."""
        for layers in (self.model.model.encoder.layers, self.model.model.decoder.layers):
            for layer in layers:
                layer.register_forward_pre_hook(self._stop_here)
            for layer in layers[1:]:  # what the first is given has no gradient where adapters alone are trained
                layer.register_full_backward_pre_hook(self._stop_here)

    def _stop_here(self, *_: object) -> None:
        """Hook of every layer: a step that is asked to stop is left undone, which changes no weight."""
        self.reporter.check_stop()

    def _fingerprint(self, model: Any) -> dict[str, str]:  # noqa: ANN401
        """What a checkpoint must have been trained with to be continued, and what each part is called."""
        sides = (self.train_set, self.select_set)
        clips = [[(e.name, e.language, e.tokens, e.positions) for e in side] for side in sides]
        return {
            "base model": _weights_digest(model),
            "settings": self.settings.deciding().digest(),
            "recordings or languages": hashlib.sha256(json.dumps(clips).encode()).hexdigest(),
        }


class _Pace:
    """Tells the time left once the first steps were measured; steps differ, so it goes by encoder positions."""

    def __init__(self, run: Run) -> None:
        self._run, self._first, self._began = run, run.step + 1, 0.0

    def tell(self) -> None:
        step, positions = self._run.step, self._run.positions
        if step == self._first:
            self._began = time.monotonic()
        elif step == self._first + MEASURED_STEPS:
            pace = (time.monotonic() - self._began) / sum(positions[self._first : step])
            self._run.reporter.metric(estimated_s=pace * sum(positions[step:]), measured_steps=MEASURED_STEPS)


def computes_in_bf16(d_model: int, processor: Mapping[str, Any]) -> bool:
    """Whether a model of this width trains faster in bfloat16 on a processor with these capabilities.

    On one that multiplies bfloat16 (AVX-512 BF16), a step of tiny took two thirds of its time, one of nano more than
    in float32.
    """
    return d_model >= BF16_FROM_WIDTH and any(processor.get(name) for name in BF16_INSTRUCTIONS)


def _bf16_on_cpu(accelerator: Any, d_model: int) -> bool:  # noqa: ANN401
    """Not accelerate's to decide: a process has one precision for all models, and their widths differ."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return accelerator.device.type == "cpu" and computes_in_bf16(d_model, capabilities)


def _accelerator() -> Any:  # noqa: ANN401
    """The best device here, in bfloat16 (else float16) on a GPU; processes on CPU talk by gloo."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    patience = [InitProcessGroupKwargs(timeout=WAIT)]
    if not torch.cuda.is_available():
        return Accelerator(mixed_precision="no", cpu="LOCAL_RANK" in os.environ, kwargs_handlers=patience)
    half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Accelerator(mixed_precision=half, kwargs_handlers=patience)


def _weights_digest(model: Any) -> str:  # noqa: ANN401
    """SHA-256 of some values of every tensor: tells two models apart without reading them whole."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        digest.update(name.encode() + flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


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
    adapter_x = lora.RATE_X if lora.is_adapter(name) else 1.0
    return adapter_x * ((settings.decoder_rate_x or 1.0) if "decoder" in name else 1.0)
