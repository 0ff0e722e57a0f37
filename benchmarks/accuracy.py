"""How many fewer words come out wrong once nano has learned a voice, on recordings it never saw.

`python -m benchmarks.accuracy [VOICE …] [--splits N]`. The first split is the one idiolect itself makes; the others are
drawn anew, because one split of some fifty clips says little. The peer is the stock model on the same clips.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from daemon.demo import VOCABULARY, VOICES
from daemon.demo_report import FEWER_ERRORS, WORDS_RECALLED
from idiolect.transcriber import DecodingOptions
from training.audio import decode
from training.base_models import resolve
from training.decode import CheckpointTranscriber
from training.evaluate import Evaluation, EvaluationClip, evaluate
from training.finetune import Settings, Source, finetune
from training.scoring import term_recall
from training.split import Side, side, text_key

if TYPE_CHECKING:
    from idiolect.transcriber import Pcm

NEW_WORDS = (VOICES / "synthetic" / VOCABULARY).read_text().split()


@dataclass(frozen=True)
class Row:
    """What came of one split."""

    stock: Evaluation
    tuned: Evaluation
    tuned_full: Evaluation  # in 30 s windows
    train_s: float

    @property
    def fewer(self) -> float:
        """Share of the stock model's word errors that are gone."""
        return 1 - self.tuned.wer / self.stock.wer

    def recalled(self) -> tuple[int, int, int]:
        """New words heard by the stock model, heard by the tuned one, said."""
        stock = [term_recall(term, self.stock.references, self.stock.hypotheses) for term in NEW_WORDS]
        tuned = [term_recall(term, self.tuned.references, self.tuned.hypotheses) for term in NEW_WORDS]
        return sum(heard for heard, _ in stock), sum(heard for heard, _ in tuned), sum(said for _, said in stock)


def main() -> int:
    """Print a line for each split and the means; 1 when a mean misses its promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", nargs="*", default=["human", "synthetic"], metavar="VOICE")
    parser.add_argument("--splits", type=int, default=1)
    options = parser.parse_args()
    print(heading("split"))
    kept = True
    for voice in options.voices:
        rows = []
        for split in range(options.splits):
            rows.append(measure(*divided(voice, split)))
            show(voice, split, rows[-1])
        fewer = mean(row.fewer for row in rows)
        heard, spoken = (sum(row.recalled()[i] for row in rows) for i in (1, 2))
        print(f"{voice:11} mean: {fewer:.0%} fewer errors (promised {FEWER_ERRORS[voice]:.0%})", end="")
        wanted = WORDS_RECALLED.get(voice, 0.0)
        print(f", {heard} of {spoken} new words (promised {wanted:.0%})" if spoken else "")
        kept &= fewer >= FEWER_ERRORS[voice] and heard >= wanted * spoken
    return 0 if kept else 1


def recordings(voice: str) -> list[tuple[str, Pcm, str]]:
    """Name, 1-D float32 PCM at 16 kHz and text of a shipped voice's clips."""
    rows = [json.loads(row) for row in (VOICES / voice / "metadata.jsonl").read_text().splitlines()]
    return [(row["file_name"], decode(VOICES / voice / row["file_name"]), row["text"]) for row in rows]


def sides(texts: Sequence[str], split: int) -> list[Side]:
    """Where each clip belongs: as idiolect decides in split 0, drawn anew in the others."""
    if not split:
        return [side(text) for text in texts]

    def drawn(text: str) -> Side:
        rng = random.Random(f"{split} {text_key(text)}")
        return "held-out" if rng.random() < 0.2 else "select" if rng.random() < 0.1 else "train"

    return [drawn(text) for text in texts]


def divided(voice: str, split: int = 0) -> tuple[list[Source], list[EvaluationClip]]:
    """A shipped voice's clips to learn from, and those held out."""
    said = recordings(voice)
    return parted(said, sides([text for _, _, text in said], split))


def parted(said: Sequence[tuple[str, Pcm, str]], where: Sequence[Side]) -> tuple[list[Source], list[EvaluationClip]]:
    """`divided` by the side that each clip is given."""
    clips = list(zip(said, where, strict=True))
    sources = [Source(*clip, "en", select=at == "select") for clip, at in clips if at != "held-out"]
    return sources, [EvaluationClip(*clip) for clip, at in clips if at == "held-out"]


def measure(sources: Sequence[Source], held_out: Sequence[EvaluationClip]) -> Row:
    """Teach nano the clips, and score it and stock on those that were held out."""
    with tempfile.TemporaryDirectory() as folder:
        base = resolve("nano", Path(folder))
        stock = evaluate(CheckpointTranscriber(base), held_out)
        started = time.monotonic()
        finetune(base, sources, Path(folder) / "tuned", Settings())
        train_s = time.monotonic() - started
        model = CheckpointTranscriber(Path(folder) / "tuned")
        full = evaluate(model, held_out, DecodingOptions(audio_context="full"))
        return Row(stock, evaluate(model, held_out), full, train_s)


def heading(label: str) -> str:
    """What stands above the lines of `show`."""
    wer = f"{'stock → tuned WER':19}{'fewer':>6}  {'30 s window':13}"
    return f"{'voice':11}{label:>5} {'clips':>5}  {wer}{'new words':12}loops  training"


def show(voice: str, label: object, row: Row) -> None:
    """One line of the table under `heading`."""
    before, after, said = row.recalled()
    words = f"{before}→{after} of {said}" if said else "–"
    wer = f"{row.stock.wer:.1%} → {row.tuned.wer:.1%}"
    figures = (
        f"{wer:19}{row.fewer:6.0%}  {row.tuned_full.wer:<13.1%}{words:12}{row.tuned.loops:5.0%}  {row.train_s:6.0f} s"
    )
    print(f"{voice:11}{label!s:>5} {row.tuned.clips:5}  {figures}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
