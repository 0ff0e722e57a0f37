"""The table at the end of the demo, and whether every promise in it was kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.lines import megabytes
from daemon.terminal import out, percent, plain, table

FEWER_ERRORS = {"synthetic": 0.70, "human": 0.50}
WORDS_RECALLED = {"synthetic": 0.80}  # of the words in the voice's own vocabulary.txt, none of which nano ever met
TRAINED_TO_PULLED_S = 15.0
MAX_WER_LOSS = 0.03


@dataclass(frozen=True)
class Finding:
    """What the demo saw: the run, its result, evaluations (stock, tuned) on each device, transcripts, times.

    `desktop` ends with the unquantised model's WER on the desktop's clips.
    """

    run: dict[str, Any]
    result: dict[str, Any]
    phone: tuple[dict[str, Any], dict[str, Any]]
    desktop: tuple[dict[str, Any], dict[str, Any], float]
    examples: Sequence[tuple[str, str, str]]
    files: dict[str, Path]
    pull_s: float
    found_at: str
    trained_to_pulled_s: float
    home: Path


@dataclass(frozen=True)
class Promise:
    """One row: what was measured before and after, what was promised, whether it was kept."""

    what: str
    stock: str
    tuned: str
    promised: str
    kept: bool


def promises(voice: str, finding: Finding) -> list[Promise]:
    """Every row of the table."""
    result = finding.result
    stock, tuned = result["stock"]["wer"], result["tuned"]["wer"]
    rows = [_fewer("word errors, new model", stock, tuned, FEWER_ERRORS[voice])]
    on_desktop = f"desktop file ({finding.desktop[0]['clips']} of them)"
    files = (("phone file (android-futo)", *finding.phone, tuned), (on_desktop, *finding.desktop))
    for title, before, after, model_wer in files:
        loss = after["wer"] - model_wer
        rows.append(
            Promise(
                f"word errors, {title}",
                percent(before["wer"]),
                percent(after["wer"]),
                f"at most {MAX_WER_LOSS * 100:g} points over the model",
                loss <= MAX_WER_LOSS and after["wer"] < before["wer"],
            )
        )
    if voice in WORDS_RECALLED:
        wanted = WORDS_RECALLED[voice]
        (stock_heard, said), (heard, _) = (_heard(evaluation) for evaluation in finding.phone)
        promised = f"at least {wanted:.0%} heard"
        rows.append(
            Promise(
                "its new words, phone file",
                f"{stock_heard} of {said}",
                f"{heard} of {said}",
                promised,
                heard >= wanted * said,
            )
        )
    loops = max(after["loops"] for after in (finding.phone[1], finding.desktop[1]))
    rows.append(
        Promise("outputs that run on in loops", percent(finding.phone[0]["loops"]), percent(loops), "0.0%", not loops)
    )
    waited = finding.trained_to_pulled_s
    limit = TRAINED_TO_PULLED_S
    rows.append(Promise("training done → on the phone", "–", f"{waited:.1f} s", f"under {limit:g} s", waited < limit))
    return rows


def show_report(voice: str, finding: Finding, status: dict[str, Any]) -> bool:
    """Print the table and what to do next; True when every promise was kept."""
    rows = promises(voice, finding)
    result = finding.result
    out.print()
    out.print("[bold]What was said, and what the phone heard before and after[/]")
    for said, before, after in finding.examples:
        out.print(f"  said   {plain(said)}\n  before [red]{plain(before)}[/]\n  after  [green]{plain(after)}[/]\n")
    held = f"{result['held_out_clips']} recordings ({result['held_out_words']} words) that no model was trained on"
    table(
        f"Measured on {held}",
        ["", "stock", "tuned", "promised", ""],
        [[row.what, row.stock, row.tuned, row.promised, "ok" if row.kept else "MISSED"] for row in rows],
    )
    if terms := [term for term in finding.phone[1]["terms"] if term["said"]]:
        learned = ", ".join(f"{term['term']} {term['heard']}/{term['said']}" for term in terms)
        out.print(f"\n[bold]Words the phone did not know[/] (heard/said now): {plain(learned)}")
    out.print()
    out.print("[bold]Files[/]")
    for (name, path), scores in zip(finding.files.items(), (finding.phone[1], finding.desktop[1]), strict=True):
        size, speed = megabytes(path.stat().st_size), f"{1 / scores['rtf']:.0f} × real time"
        out.print(f"  {name:20}{size:>8}  {speed:>15}  {plain(str(path))}", soft_wrap=True)
    minutes = status["hours"] * 60
    out.print(
        f"\nTrained on {result['train_clips']} recordings in {result['train_s']:.0f} s "
        f"({minutes:.1f} minutes of speech in the folder)."
    )
    out.print(f"The phone found this computer by zeroconf, at {plain(finding.found_at)}.")
    out.print("\n[bold]Next, with your own voice[/]")
    command = _own_command()
    for arguments, why in (
        ("init", "make a home and see where to put recordings"),
        ("models fetch tiny small", "get the stock models, once"),
        ("run", "leave it running; it trains when enough has come in"),
        (f"--home {finding.home} status", "look around in this demo's home"),
    ):
        out.print(f"  {command} {arguments:33}  {why}", markup=False, soft_wrap=True)
    if not all(row.kept for row in rows):
        out.print("\n[bold red]A promise was missed; see MISSED above.[/]")
    return all(row.kept for row in rows)


def _heard(evaluation: dict[str, Any]) -> tuple[int, int]:
    """How often listed words were heard, and said."""
    return sum(term["heard"] for term in evaluation["terms"]), sum(term["said"] for term in evaluation["terms"])


def _fewer(what: str, stock: float, tuned: float, wanted: float) -> Promise:
    fewer = 1 - tuned / stock if stock else 0.0
    promised = f"{wanted:.0%} fewer: {fewer:.0%}"
    return Promise(what, percent(stock), percent(tuned), promised, fewer >= wanted)


def _own_command() -> str:
    """How to call this program from here: a new user's PATH does not have it."""
    return "idiolect" if shutil.which("idiolect") else os.path.relpath(Path(sys.executable).with_name("idiolect"))
