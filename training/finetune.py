"""Fine-tuning from beginning to end: clips to examples, the loop, one folder; and what may go wrong on the way."""

from __future__ import annotations

import contextlib
import errno
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.child import Reporter
from idiolect.errors import DatasetError, JobError, one_line
from idiolect.files import folder_bytes, free_bytes
from idiolect.whisper import special_tokens
from training.decode import load_model
from training.examples import Example, ExampleMaker
from training.mel_cache import MelCache
from training.memory import shortages_told
from training.recipe import Settings, defaults_for
from training.rows import may_be_new

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm
    from training.loop import Run

__all__ = ["Outcome", "Settings", "Source", "defaults_for", "finetune"]

SLOWER_X = 0.5  # the learning rate after a divergence, once


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
    base: Path,
    sources: Sequence[Source],
    out: Path,
    settings: Settings,
    reporter: Reporter | None = None,
    mel_cache: Path | None = None,
) -> Outcome:
    """Fine-tune the Hugging Face folder `base` on `sources` and write the folder `out`, whole or not at all.

    Continues where an interrupted run with the same settings and clips left it in `<out>.state`. Log-mel is taken
    from, and kept in, the folder `mel_cache`. Raises JobStopped when asked to stop (after saving), DatasetError when no
    clip can be used, CheckpointError for a bad base, JobError when training diverges twice, when memory does not do for
    one clip, and for too little disk space.
    """
    from training.saved_folder import save_checkpoint
    from training.spoken import doubts

    reporter = reporter or Reporter()
    model, tokenizer = load_model(base)
    cache = MelCache(mel_cache) if mel_cache else None
    train, select, skipped = _examples(model, tokenizer, sources, cache, reporter)
    for line in (*(f"left out {line}" for line in skipped), *doubts(model, train)):
        reporter.warning(line)
    if len(select) < 2:
        taken = "too few: the mean of the last ones is taken; of more recordings some serve for that"
        reporter.warning(f"clips to choose the best weights by: {len(select)}, {taken}")
    settings = _filled_in(settings, model, train)
    models = [model]
    del model
    with shortages_told(), _full_disk_told():
        run = _trained(base, models, train, select, settings, out.with_name(out.name + ".state"), reporter)
        if run.processes.main:
            save_checkpoint(run, base, out)
    run.processes.wait()
    outcome = Outcome(
        checkpoint=out,
        settings=settings,
        clips=len(train),
        audio_s=sum(example.duration_s for example in train),
        steps=run.step,
        train_s=run.train_s,
        best_select_errors=run.best_errors,
        skipped=tuple(skipped),
    )
    del run
    gc.collect()  # the model and its optimiser, before it is scored or another one trained
    return outcome


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    """JobError where the disk ends."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise JobError(f"the disk is full: {error}", "free some space; the same command goes on") from error


def _filled_in(settings: Settings, model: Any, train: Sequence[Example]) -> Settings:  # noqa: ANN401
    new_tokens = may_be_new(model, {token for example in train for token in example.tokens})
    return defaults_for(settings, model.config.d_model, len(train), new_tokens=new_tokens)


def _trained(
    base: Path,
    models: list[Any],
    train: Sequence[Example],
    select: Sequence[Example],
    settings: Settings,
    state_dir: Path,
    reporter: Reporter,
) -> Run:
    """A run at its end. One that diverges goes back to its last checkpoint, with half the learning rate, once.

    `models` holds the loaded base, which the run takes out: nobody else keeps it in memory.
    """
    from training.finetune_state import load_state
    from training.loop import Diverged, Run

    rate_x = 1.0
    while True:
        run = Run(models.pop() if models else load_model(base)[0], train, select, settings, state_dir, reporter)
        if run.processes.main:
            _check_disk(run)
        load_state(run)
        rate_x = run.rate_x = min(run.rate_x, rate_x)
        try:
            run.train()
            return run
        except Diverged as error:
            if rate_x <= SLOWER_X:
                raise JobError(
                    f"{error.message}, again", "lower the learning rate, and look for odd recordings"
                ) from error
            reason = error.message
        rate_x *= SLOWER_X
        del run
        gc.collect()  # before the next one takes its memory: a run and its model hold each other
        reporter.warning(f"{reason}: back to the last checkpoint with half the learning rate")


def _check_disk(run: Run) -> None:
    from training.finetune_state import needed_bytes

    n_trained = sum(parameter.numel() for parameter in run.trained)
    needed = needed_bytes(sum(parameter.numel() for parameter in run.model.parameters()), n_trained)
    if run.state_dir.exists():  # what an interrupted run has written already
        needed -= folder_bytes(run.state_dir)
    folder, free = run.state_dir.parents[1], free_bytes(run.state_dir.parents[1])
    if free < needed:
        raise JobError(
            f"training needs {needed / 1e9:.1f} GB of disk space, and {folder} has {free / 1e9:.1f} GB left",
            f"free some (unfinished trainings lie in {run.state_dir.parent}), or write the model to another disk",
        )


def _examples(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    sources: Sequence[Source],
    cache: MelCache | None,
    reporter: Reporter,
) -> tuple[list[Example], list[Example], list[str]]:
    make = ExampleMaker(tokenizer, special_tokens(model.config.vocab_size), model.config.num_mel_bins, cache)
    train: list[Example] = []
    select: list[Example] = []
    skipped: list[str] = []
    for done, source in enumerate(sources):
        reporter.check_stop()
        try:
            (select if source.select else train).append(make(source.name, source.pcm, source.text, source.language))
        except DatasetError as error:
            skipped.append(f"{source.name}: {one_line(error)}")
        reporter.progress(done + 1, len(sources), "clips")
    if cache:
        cache.trim()
    if not train:
        serve = "the others serve to choose the best weights by: add some that say something else"
        hint = skipped[0] if skipped else serve if select else "add recordings with transcripts"
        raise DatasetError(f"none of {len(sources)} clips can be trained on", hint)
    return train, select, skipped
