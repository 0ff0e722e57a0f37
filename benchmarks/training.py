"""Training speed beside the standard recipe, and what the speed costs in accuracy.

`python -m benchmarks.training [--wer [--voices VOICE …] [--seeds N] [--recipe-epochs N]]`. The peer is transformers'
Seq2SeqTrainer with every clip padded to 30 s: same clips (2 to 6 s, of the shipped voices), optimiser, batch and number
of passes, in one run. nano, and a Whisper tiny of random weights, on which speed does not depend. Exit status 1 when a
promise is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

from benchmarks.accuracy import divided, recordings
from benchmarks.exporting import TINY, make_checkpoint
from idiolect.transcriber import DecodingOptions
from idiolect.whisper import MAX_POSITIONS, RATE_HZ, special_tokens
from training.base_models import resolve
from training.compare import verdict
from training.decode import CheckpointTranscriber, load_model
from training.evaluate import Evaluation, EvaluationClip, evaluate
from training.examples import ExampleMaker, collate
from training.features import stack
from training.finetune import Settings, Source, finetune
from training.scoring import paired_bootstrap

VOICES = ["human", "synthetic"]
SHORTEST_S, LONGEST_S = 2.0, 6.0
FASTER_X = {"shipped defaults": 4.0, "true length": 6.0}
TRUE_LENGTH: dict[str, Any] = {"full_share": 0.0, "longer_share": 0.0}
CLIPS = {"nano": 96, "tiny": 32}  # a pass of the recipe over them takes some twenty seconds
BATCH_CLIPS = 8
SEEDS = 3
RECIPE_RATE = 4e-4  # at which nano learns best in 30 s windows; batch and epochs are ours unless asked for


@dataclass(frozen=True)
class Speed:
    """One training: its clips, their audio, and how long all steps took."""

    clips: int
    audio_s: float
    train_s: float

    def __str__(self) -> str:
        return f"{self.clips / self.train_s:7.1f} clips/s {self.audio_s / self.train_s:8.1f} audio-s/s"


def main() -> int:
    """Print a table for each model; 1 when ours is not as much faster as promised, or worse on held-out clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wer", action="store_true", help="compare held-out WER of nano as well (slow)")
    parser.add_argument("--voices", nargs="+", default=VOICES, choices=VOICES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--recipe-epochs", type=float, help="in place of ours")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        nano = resolve("nano", folder)
        kept = _compare_speed("nano", nano, folder)
        make_checkpoint(folder / "tiny", TINY)
        for file in nano.glob("*.json"):
            if not (folder / "tiny" / file.name).exists():
                (folder / "tiny" / file.name).write_bytes(file.read_bytes())
        kept &= _compare_speed("tiny", folder / "tiny", folder)
        if options.wer:
            kept &= all([_compare_wer(nano, voice, options, folder) for voice in options.voices])
    return 0 if kept else 1


def train_by_recipe(base: Path, sources: Sequence[Source], settings: Settings, out: Path) -> float:
    """Fine-tune as transformers' own guides do, without timestamps; seconds of the steps, the first as the others."""
    from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    ends_s: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            ends_s.append(time.monotonic())

    model, tokenizer = load_model(base)
    special = special_tokens(model.config.vocab_size)
    make = ExampleMaker(tokenizer, special, model.config.num_mel_bins)
    examples = [make(source.name, source.pcm, source.text, source.language) for source in sources]

    def padded(chosen: Sequence[Any]) -> dict[str, Any]:
        inputs, labels = collate(chosen, special, [False] * len(chosen))
        features = stack([clip.mel.float() for clip in chosen], MAX_POSITIONS)
        return {"input_features": features, "decoder_input_ids": inputs, "labels": labels}

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out.with_name(out.name + ".trainer")),
        per_device_train_batch_size=settings.batch_size or BATCH_CLIPS,
        num_train_epochs=settings.epochs or 1,
        learning_rate=settings.learning_rate or 1e-5,
        warmup_ratio=settings.warmup_share,
        weight_decay=settings.weight_decay,
        adam_beta2=0.98,
        optim="adamw_torch_fused",
        lr_scheduler_type="cosine",
        seed=settings.seed,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Seq2SeqTrainer(
        model=model, args=arguments, train_dataset=examples, data_collator=padded, callbacks=[Clock()]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    train_s = (ends_s[-1] - ends_s[0]) * len(ends_s) / (len(ends_s) - 1)
    cast(Any, model).half().save_pretrained(out)
    for file in base.iterdir():
        if not (out / file.name).exists():
            (out / file.name).write_bytes(file.read_bytes())
    return train_s


def _compare_speed(name: str, base: Path, folder: Path) -> bool:
    said = [Source(*clip, "en", select=False) for voice in VOICES for clip in recordings(voice)]
    sources = [source for source in said if SHORTEST_S <= _seconds(source) <= LONGEST_S]
    sources = sources[:: len(sources) // CLIPS[name]][: CLIPS[name]]
    audio_s = sum(map(_seconds, sources))
    settings = Settings(epochs=1, batch_size=BATCH_CLIPS)
    print(f"{name}: {len(sources)} clips of {audio_s / len(sources):.1f} s, batches of {BATCH_CLIPS}, one pass")
    seconds = train_by_recipe(base, sources, replace(settings, learning_rate=1e-4), folder / f"{name}-recipe")
    recipe = Speed(len(sources), audio_s, seconds)
    print(f"  standard recipe, 30 s windows {recipe}", flush=True)
    kept = True
    for label, changes in (("shipped defaults", {}), ("true length", TRUE_LENGTH)):
        ours = _speed_of_ours(base, sources, replace(settings, **changes), folder / f"{name}-{len(label)}")
        faster_x = ours.clips / ours.train_s / (recipe.clips / recipe.train_s)
        reached = faster_x >= FASTER_X[label]
        promise = f"at least {FASTER_X[label]:g} ×: {'kept' if reached else 'MISSED'}"
        print(f"  ours, {label:<23} {ours}  {faster_x:5.1f} ×  ({promise})", flush=True)
        kept &= reached
    return kept


def _speed_of_ours(base: Path, sources: Sequence[Source], settings: Settings, out: Path) -> Speed:
    """Three passes, so that the few batches which see the full window weigh as they do in the long run."""
    passes = 3
    outcome = finetune(base, sources, out, replace(settings, epochs=passes))
    return Speed(passes * outcome.clips, passes * outcome.audio_s, outcome.train_s)


def _compare_wer(nano: Path, voice: str, options: argparse.Namespace, folder: Path) -> bool:
    print(f"held-out WER, nano, {voice} voice: own length / 30 s window, training")
    pairs: list[tuple[Evaluation, Evaluation]] = []  # ours, the recipe's
    for seed in range(options.seeds):
        taught, judged = divided(voice, seed)  # another seed holds out other clips: one split of some fifty says little
        out = folder / f"{voice}-ours-{seed}"
        ours = finetune(nano, taught, out, Settings(seed=seed))
        own = _scored(f"ours {seed}", out, judged, ours.train_s)
        epochs = options.recipe_epochs or ours.settings.epochs
        recipe = replace(ours.settings, learning_rate=RECIPE_RATE, epochs=epochs)
        alike = [source for source in taught if not source.select]  # ours chooses its weights by the others
        out = folder / f"{voice}-recipe-{seed}"
        other = _scored(f"recipe {seed}", out, judged, train_by_recipe(nano, alike, recipe, out))
        pairs.append((own, other))
    ours_wer, recipe_wer = (mean(each.wer for each in column) for column in zip(*pairs, strict=True))
    said, low, high = _judged(pairs)
    interval = f"difference {100 * low:+.1f} … {100 * high:+.1f} points (95 %)"
    print(f"  mean of the better window: {recipe_wer:.1%} → {ours_wer:.1%}, {interval}: {said}")
    return said in ("better", "same")


def _judged(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> tuple[str, float, float]:
    """Better, same or worse as `idiolect evaluate` says it, and the interval of the difference in WER.

    A sentence that was held out twice, or said twice, is resampled with all its outcomes: they are not independent.
    """
    errors, other_errors, words = Counter[str](), Counter[str](), Counter[str]()
    for own, other in pairs:
        for i, text in enumerate(own.references):
            errors[text] += own.errors[i]
            other_errors[text] += other.errors[i]
            words[text] += own.clip_words[i]
    _, low, high = paired_bootstrap([*errors.values()], [*other_errors.values()], [*words.values()])
    return verdict(low, high, len(words), words.total()), low, high


def _scored(label: str, model: Path, judged: Sequence[EvaluationClip], train_s: float) -> Evaluation:
    """In the window that the model does better in: the recipe's was never asked to work in a short one."""
    transcriber = CheckpointTranscriber(model)
    short = evaluate(transcriber, judged)
    full = evaluate(transcriber, judged, DecodingOptions(audio_context="full"))
    print(f"  {label:<10} {short.wer:6.1%} / {full.wer:6.1%} {train_s:6.0f} s", flush=True)
    return min(short, full, key=lambda each: each.wer)


def _seconds(source: Source) -> float:
    return len(source.pcm) / RATE_HZ


if __name__ == "__main__":
    sys.exit(main())
