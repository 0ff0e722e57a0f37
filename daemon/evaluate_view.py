"""`idiolect evaluate` for people: the promise first, then how sure the figures are, then what lies behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from daemon.lines import megabytes
from daemon.terminal import out, percent, plain, table

if TYPE_CHECKING:
    from training.compare import Comparison, Difference, Result, WorstClip

MODELS_ABREAST = 4  # columns of a table that has a row for each term
TERMS_SHOWN = 12  # of each group
LINES_SHOWN = 3  # of a clip's words: an output in loops is long
_MARKS = {"substitute": "yellow", "delete": "red", "insert": "magenta", "equal": ""}


def show_comparison(comparison: Comparison, missing_rivals: Sequence[str] = ()) -> None:
    """Every table. `missing_rivals` are stock models which, once fetched, would show the method's promise."""
    results = comparison.results
    first = results[0].scored.clean
    minutes = first.audio_s / 60
    out.print(f"[bold]{first.clips} clips, {first.words} words, {minutes:.1f} minutes of speech; all heard the same[/]")
    for result in results:
        if result.label != result.scored.clean.model:
            out.print(f"  [dim]{plain(result.label)} is {plain(result.scored.clean.model)}[/]", soft_wrap=True)
    _show_promises(comparison, missing_rivals)
    _show_errors(comparison)
    _show_terms(comparison)
    if comparison.noise_db is not None:
        _show_noise(comparison)
    _show_costs(results)
    _show_worst(results[comparison.subject])


def _show_promises(comparison: Comparison, missing: Sequence[str]) -> None:
    if comparison.promises:
        rows = []
        for promise in comparison.promises:
            tuned, stock = comparison.results[promise.tuned], comparison.results[promise.rival]
            rows.append(
                [
                    f"{tuned.label} ({tuned.scored.facts.tier})",
                    percent(tuned.wer.rate),
                    stock.label,
                    percent(stock.wer.rate),
                    promise.versus.points,
                    promise.versus.verdict,
                ]
            )
        _section("The promise: a tuned model does as well as a bigger stock one")
        table("", ["tuned", "WER", "stock", "WER", "points", "tuned is"], rows)
    elif missing:
        _note(f"To see it beside the bigger stock models it should match: idiolect models fetch {' '.join(missing)}")


def _show_errors(comparison: Comparison) -> None:
    reference = comparison.results[comparison.reference].label
    _section("Errors")
    judged = ["it is", f"points against {reference}"]
    table("", ["model", "WER", *judged], [[r.label, str(r.wer), *_held(r.versus)] for r in comparison.results])
    out.print()
    table("", ["model", "CER", *judged], [[r.label, str(r.cer), *_held(r.cer_versus)] for r in comparison.results])
    _note(
        "WER: words wrong, missing or added, of 100 said; CER: the same of letters. In brackets the 95 % interval. "
        "better or worse: the whole interval of the difference lies on one side of 0; same: these clips cannot tell."
    )
    out.print()
    rows = []
    for result in comparison.results:
        clean = result.scored.clean
        counts = map(str, (clean.substitutions, clean.deletions, clean.insertions))
        rows.append([result.label, *counts, percent(clean.loops), percent(clean.wer_english)])
    table("", ["model", "words wrong", "missing", "added", "outputs in loops", "WER (English rules)"], rows)


def _held(versus: Difference | None) -> list[str]:
    return [versus.verdict, versus.points] if versus else ["the reference", "–"]


def _show_terms(comparison: Comparison) -> None:
    terms = comparison.vocabulary.terms
    _section(f"Words that matter: {comparison.vocabulary.source}")
    if not terms:
        _note("None: a word counts when it is said three times and missed more than half of them. See --vocabulary.")
        return
    for start in range(0, len(comparison.results), MODELS_ABREAST):
        _table_of_terms(comparison, comparison.results[start : start + MODELS_ABREAST])
    if never := comparison.never_said():
        more = f" and {len(never) - TERMS_SHOWN} more" if len(never) > TERMS_SHOWN else ""
        _note(f"Never said in these clips: {', '.join(never[:TERMS_SHOWN])}{more}")
    if comparison.vocabulary.is_missed:
        _note("They were chosen because that model missed them, so its figures here look worse than it is.")
    rows = list(_with_and_without(comparison))
    if rows:
        out.print()
        count = comparison.with_terms
        table("", ["model", f"WER, {count} clips with such a word", "it is", "WER, the other clips", "it is"], rows)


def _table_of_terms(comparison: Comparison, results: Sequence[Result]) -> None:
    terms = comparison.vocabulary.terms
    groups = [comparison.groups(result) for result in results]
    rows, hidden = [], 0
    for group, recall in groups[0].items():
        rows.append([f"all {group}", str(recall.said), *(str(recalls[group]) for recalls in groups)])
        places = comparison.places(group)
        hidden += max(0, len(places) - TERMS_SHOWN)
        for place in places[:TERMS_SHOWN]:
            heard = (str(result.terms[place].heard) for result in results)
            rows.append([f"  {terms[place].text}", str(results[0].terms[place].said), *heard])
    if rows:
        table("", ["", "said", *(f"heard by {result.label}" for result in results)], rows)
    if hidden:
        _note(f"… and {hidden} more; all of them: --html FILE or --json")


def _with_and_without(comparison: Comparison) -> Iterator[list[str]]:
    for result in comparison.results:
        if result.with_terms and result.without_terms:
            sides = (
                (result.with_terms, result.with_terms_versus),
                (result.without_terms, result.without_terms_versus),
            )
            cells = [[str(wer), versus.verdict if versus else "the reference"] for wer, versus in sides]
            yield [result.label, *cells[0], *cells[1]]


def _show_noise(comparison: Comparison) -> None:
    _section(f"In noise: the same clips with speech-like noise, the voice {comparison.noise_db:+g} dB above it")
    rows = []
    for result in comparison.results:
        if result.noisy and result.noise_loss:
            versus = result.noisy_versus.verdict if result.noisy_versus else "the reference"
            rows.append([result.label, percent(result.wer.rate), str(result.noisy), result.noise_loss.points, versus])
    table("", ["model", "WER clean", "WER in noise", "lost, in points", "in noise it is"], rows)


def _show_costs(results: Sequence[Result]) -> None:
    from training.compare import TIMED

    _section("What they cost")
    rows = []
    for result in results:
        clean, facts = result.scored.clean, result.scored.facts
        rows.append(
            [
                result.label,
                f"{1 / clean.rtf:.1f} × ({clean.rtf:.3f})" if clean.rtf else "–",
                megabytes(clean.peak_memory_bytes),
                f"{facts.parameters / 1e6:.1f} M" if facts.parameters else "–",
                megabytes(facts.size_bytes) if facts.size_bytes else "–",
                clean.runtime,
            ]
        )
    headings = ["model", "speed (real-time factor)", "peak memory", "parameters", "on disk", "runs in"]
    table("", headings, rows)
    _note(TIMED)


def _show_worst(result: Result) -> None:
    if not result.worst:
        return
    _section(f"The worst {len(result.worst)} clips of {result.label}: above what was said, below what it heard")
    _note("[yellow]other word[/] [red]missing[/] [magenta]added[/]", markup=True)
    for clip in result.worst:
        out.print(f"{plain(clip.clip)}: {clip.count}", soft_wrap=True)
        lines = list(_aligned(clip, out.width - 4))
        for said, heard in lines[:LINES_SHOWN]:
            out.print(f"    {said}\n    {heard}", soft_wrap=True)
        if len(lines) > LINES_SHOWN:
            out.print("    …")


def _aligned(clip: WorstClip, width: int) -> Iterator[tuple[str, str]]:
    """(said, heard) lines of at most `width` columns, words above each other, mistakes in colour."""
    from rich.cells import cell_len

    above, below, used = "", "", 0
    for place in clip.alignment:
        said, heard = plain(place.said or "·"), plain(place.heard or "·")
        cells = max(cell_len(place.said or "·"), cell_len(place.heard or "·"))
        if used and used + cells > width:
            yield above, below
            above, below, used = "", "", 0
        style = _MARKS[place.operation]
        pad_above, pad_below = (" " * (cells + 1 - cell_len(word or "·")) for word in (place.said, place.heard))
        above += f"[{style}]{said}[/]{pad_above}" if style else said + pad_above
        below += f"[{style}]{heard}[/]{pad_below}" if style else heard + pad_below
        used += cells + 1
    yield above, below


def _section(title: str) -> None:
    out.print(f"\n[bold]{plain(title)}[/]")


def _note(text: str, markup: bool = False) -> None:
    out.print(f"[dim]{text if markup else plain(text)}[/]")
