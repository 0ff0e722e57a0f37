"""What the next recordings bring: nano's word error rate against the clips it learned from, on clips it never saw.

`python -m benchmarks.learning_curve [VOICE …] [--clips 10,25,…] [--splits N] [--html FILE]`. Smaller sets are parts of
the bigger ones. The peer is the stock model on the same clips. The first split is the one idiolect itself makes; with
more, their mean is judged: a word more or less moves a line of one split by up to eight points, a seed by ten. Exit
status 1 when a promise is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.accuracy import Row, heading, measure, parted, recordings, show, sides
from training.report_html import page
from training.split import Side
from training.svg import Line, Point, lines

COUNTS = "10,25,50,100"
ALL = "all"


@dataclass(frozen=True)
class Promise:
    """At least this share of the stock model's errors is gone, and this share of the ten new words is heard."""

    fewer: float
    words: float = 0.0


PROMISES = {
    ("human", "50"): Promise(0.45),
    ("human", ALL): Promise(0.65),
    ("synthetic", "50"): Promise(0.45),
    ("synthetic", ALL): Promise(0.85, 0.90),
}
WHATEVER = Promise(0.0)  # never worse than the stock model


def main() -> int:
    """Print a line for each voice and size; 1 when one misses its promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voices", nargs="*", default=["human", "synthetic"], metavar="VOICE")
    parser.add_argument("--clips", default=COUNTS, help="how many clips to learn from, beside all")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--html", type=Path, help="draw the curves into this file")
    options = parser.parse_args()
    print(heading("learnt"))
    curves, missed = [], []
    for voice in options.voices:
        labels = (*options.clips.split(","), ALL)
        rows = {label: _measured(voice, label, options.splits) for label in labels}
        for label, found in rows.items():
            missed += [f"{voice}, {label} clips: {reason}" for reason in misses(voice, label, found)]
        points = [Point(label, mean(row.tuned.wer for row in found)) for label, found in rows.items()]
        stock = Point("0", mean(row.stock.wer for row in rows[ALL]))
        curves.append(Line(f"{voice} voice", (stock, *points)))
    for line in missed:
        print(f"MISSED {line}")
    if options.html:
        drawn = lines("WER by clips learnt from", curves)
        options.html.write_text(page("idiolect: learning curve", ["<h1>What more recordings bring</h1>", drawn]))
    return 1 if missed else 0


def chosen(where: Sequence[Side], count: int | None) -> list[int]:
    """Indices of all held-out clips and of `count` of the others, in order; of a bigger count they hold the smaller."""
    taught = [index for index, side in enumerate(where) if side != "held-out"]
    random.Random("idiolect-learning-curve").shuffle(taught)
    return sorted({*taught[:count], *(index for index, side in enumerate(where) if side == "held-out")})


def misses(voice: str, label: str, rows: Sequence[Row]) -> list[str]:
    """What the mean of some splits' lines falls short of, in words."""
    promise = PROMISES.get((voice, label), WHATEVER)
    fewer = mean(row.fewer for row in rows)
    _, heard, spoken = map(sum, zip(*(row.recalled() for row in rows), strict=True))
    found = []
    if fewer < promise.fewer:
        found.append(f"{fewer:.1%} fewer errors, promised {promise.fewer:.0%}")
    if heard < promise.words * spoken:
        found.append(f"{heard} of {spoken} new words, promised {promise.words:.0%}")
    return found


def _measured(voice: str, label: str, splits: int) -> list[Row]:
    said = recordings(voice)
    rows = []
    for split in range(splits):
        where = sides([text for _, _, text in said], split)
        kept = chosen(where, None if label == ALL else int(label))
        rows.append(measure(*parted([said[i] for i in kept], [where[i] for i in kept])))
        show(voice, label, rows[-1])
    if splits > 1:
        print(f"{voice:11}{label:>5} mean of {splits} splits: {mean(row.fewer for row in rows):.1%} fewer", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
