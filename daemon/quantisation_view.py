"""`idiolect export --compare` for people: one table, size against word errors, and what each profile would take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from daemon.terminal import out, percent, plain, table

if TYPE_CHECKING:
    from daemon.work.quantisations import Fit, Quantisations
    from training.compare import Result
    from training.svg import Spot

PLOT_COLUMNS, PLOT_ROWS = 56, 12
_CONTEXTS = {"dynamic": "the encoder cut to the audio", "full": "windows of 30 s"}


def show_quantisations(found: Quantisations) -> None:
    """The table, the plot and a line for each profile."""
    clean = found.comparison.results[0].scored.clean
    out.print(
        f"[bold]{clean.clips} clips, {clean.words} words, {clean.audio_s / 60:.1f} minutes of speech[/], "
        f"{_CONTEXTS[found.options.audio_context]}"
    )
    heads, rows = figures(found)
    table("", heads, rows)
    for quantization, reason in found.failed.items():
        out.print(f"[dim]{quantization} was not heard: {plain(reason)}[/]")
    words = f"words: how often those of {plain(found.comparison.vocabulary.source)} were heard; "
    words = (
        words if found.comparison.vocabulary.terms else "words that matter to you are counted with --vocabulary FILE; "
    )
    out.print(f"[dim]points lost against the checkpoint, 95 % interval; {words}● what a profile takes[/]")
    out.print("\n[bold]Size against word errors[/]")
    for line in plot(spots(found), found.comparison.results[0].wer.rate):
        out.print(line, markup=False)
    out.print()
    for line in advice(found):
        out.print(line, markup=False)


def figures(found: Quantisations) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    heads = ["", "MB", "WER", "points lost", "CER", "words", "speed", "memory"]
    rows = []
    for result in found.comparison.results:
        clean, versus = result.scored.clean, result.versus
        is_choice = versus is not None and any(fit.is_choice for fit in found.fits(result))
        rows.append(
            [
                f"{result.label} ●" if is_choice else result.label,
                f"{(result.scored.facts.size_bytes or 0) / 1e6:.1f}",
                percent(clean.wer),
                f"{100 * versus.mean:+.1f} ({100 * versus.low:+.1f}…{100 * versus.high:+.1f})" if versus else "–",
                percent(clean.cer),
                _recall(found, result),
                f"{1 / clean.rtf:.{0 if clean.rtf < 0.1 else 1}f} ×" if clean.rtf else "–",
                f"{clean.peak_memory_bytes / 1e6:.0f} MB",
            ]
        )
    return heads, rows


def advice(found: Quantisations) -> Iterator[str]:
    """What each profile takes, whether that keeps its limits, and the smallest that does."""
    quantised = found.comparison.results[1:]
    for name, profile in found.profiles.items():
        fits = {result.label: next(fit for fit in found.fits(result) if fit.profile == name) for result in quantised}
        good = [result for result in quantised if not fits[result.label].is_refused]
        smallest = min(good, key=lambda result: result.scored.facts.size_bytes or 0, default=None)
        chosen = fits.get(profile.quantization)
        line = f"{name} takes {profile.quantization}: " + (_verdict(chosen) if chosen else "it was not heard")
        if smallest is None:
            line += "; no quantisation keeps them"
        elif chosen is None or chosen.is_refused or smallest.label != profile.quantization:
            line += f"; the smallest that keeps its limits is {smallest.label}"
        if profile.audio_context != found.options.audio_context:
            line += f" (it is checked with {_CONTEXTS[profile.audio_context]}: --audio-context {profile.audio_context})"
        yield line


def spots(found: Quantisations) -> list[Spot]:
    """Every quantisation by its size in MB and its WER, those marked that a profile takes."""
    from training.svg import Spot

    return [
        Spot(
            result.label,
            (result.scored.facts.size_bytes or 0) / 1e6,
            result.wer.rate,
            any(fit.is_choice for fit in found.fits(result)),
        )
        for result in found.comparison.results[1:]
    ]


def plot(spots: Sequence[Spot], checkpoint: float) -> list[str]:
    """The spots as lines of text: ● what a profile takes, ○ the others, each with its label; ┄ the checkpoint's WER."""
    from training.svg import span

    low, high = span([checkpoint, *(spot.rate for spot in spots)])
    widest = max(spot.x for spot in spots)
    grid = [[" "] * (PLOT_COLUMNS + 12) for _ in range(PLOT_ROWS + 1)]
    places = [(_row(spot.rate, low, high), round(PLOT_COLUMNS * spot.x / widest)) for spot in spots]
    for spot, (row, column) in zip(spots, places, strict=True):
        grid[row][column] = "●" if spot.is_marked else "○"
    for spot, (row, column) in zip(spots, places, strict=True):
        starts = [(row, column + 2), (row, column - 1 - len(spot.label))]
        starts += [(row + down, column) for far in range(1, PLOT_ROWS) for down in (-far, far)]
        next(start for start in starts if _write(grid, *start, spot.label))
    level = _row(checkpoint, low, high)
    grid[level] = ["┄" if cell == " " else cell for cell in grid[level]]
    lines = []
    for index, cells in enumerate(grid):
        rate = f"{high - (high - low) * index / PLOT_ROWS:.1%}" if index % (PLOT_ROWS // 2) == 0 else ""
        lines.append(f"{rate:>7} │{''.join(cells)}".rstrip())
    axis = f"{'0':<{PLOT_COLUMNS // 2 - 2}}{widest / 2:<{PLOT_COLUMNS // 2}.1f}{widest:.1f} MB"
    return [*lines, f"{'':8}└{'─' * (PLOT_COLUMNS + 12)}", f"{'':9}{axis}"]


def page(found: Quantisations) -> str:
    """The same as one HTML file that needs nothing else."""
    from training import report_html
    from training.svg import safe, scatter

    clean = found.comparison.results[0].scored.clean
    heads, rows = figures(found)
    missing = [f"{quantization} was not heard: {reason}" for quantization, reason in found.failed.items()]
    parts = [
        f"<h1>What each quantisation of {safe(found.format)} costs your voice</h1>",
        f"<p>{clean.clips} clips, {clean.words} words, {clean.audio_s / 60:.1f} minutes of speech, "
        f"{_CONTEXTS[found.options.audio_context]}</p>",
        "<h2>Size against word errors</h2>",
        scatter("Word error rate by size", spots(found), "MB", found.comparison.results[0].wer.rate),
        report_html.note("The dashed line is the checkpoint; what a device profile takes is coloured."),
        report_html.table([safe(head) for head in heads], [[safe(cell) for cell in row] for row in rows]),
        *(report_html.note(safe(line)) for line in missing),
        "<h2>What each profile takes</h2>",
        *(f"<p>{safe(line)}</p>" for line in advice(found)),
    ]
    return report_html.page("idiolect: quantisations", parts)


def _verdict(fit: Fit) -> str:
    if not fit.missed:
        return "within its limits"
    return f"misses {', '.join(fit.missed)}" + ("" if fit.is_refused else ", which only warns")


def _recall(found: Quantisations, result: Result) -> str:
    groups = found.comparison.groups(result).values()
    heard, said = sum(recall.heard for recall in groups), sum(recall.said for recall in groups)
    return f"{heard}/{said}" if said else "–"


def _row(rate: float, low: float, high: float) -> int:
    return round(PLOT_ROWS * (high - rate) / (high - low))


def _write(grid: list[list[str]], row: int, start: int, text: str) -> bool:
    """Write where nothing stands yet, a blank kept free on both sides."""
    if not 0 <= row < len(grid) or start < 0 or start + len(text) > len(grid[row]):
        return False
    if (
        "".join(grid[row][max(0, start - 1) : start + len(text) + 1]).strip(" ●○")
        or "".join(grid[row][start : start + len(text)]).strip()
    ):
        return False
    grid[row][start : start + len(text)] = text
    return True
