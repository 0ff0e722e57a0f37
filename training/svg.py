"""Small plots of error rates as inline SVG: bars with intervals, lines, spots. Colours come from the page's CSS."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 360  # of the drawing; a phone shows it about one to one
_LEFT, _TOP, _PLOT_HEIGHT, _LABELS_HEIGHT = 40, 10, 160, 46
_BAR_HEIGHT, _ROW_HEIGHT = 14, 46
_VALUE_WIDTH = 50
_TICK_CHARS = 10
_LABEL_WIDTH, _LABEL_HEIGHT = 50, 13


@dataclass(frozen=True)
class Bar:
    """One rate as a fraction with its interval, where there is one; `is_marked` bars are drawn in another colour."""

    label: str
    rate: float
    low: float | None = None
    high: float | None = None
    is_marked: bool = False


@dataclass(frozen=True)
class Point:
    """A rate as a fraction at a step of the line, as its tick shall read."""

    tick: str
    rate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A named row of points, in order."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Spot:
    """A named place of a scatter plot: `x` in the axis' unit, the rate as a fraction."""

    label: str
    x: float
    rate: float
    is_marked: bool = False


def safe(text: object) -> str:
    """Text from outside for HTML and SVG: no markup, no control or direction-changing character is left in it."""
    return html.escape("".join(char if char.isprintable() else "\ufffd" for char in str(text)))


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from 0, label above, value at the end, the interval as a whisker."""
    top = max([max(row.rate, row.high or 0.0) for row in rows] or [0.0]) or 1.0
    scale = (WIDTH - _VALUE_WIDTH) / top
    drawn = []
    for index, row in enumerate(rows):
        y = index * _ROW_HEIGHT
        middle = y + 20 + _BAR_HEIGHT / 2
        end = max(row.rate, row.high or 0.0) * scale
        drawn += [
            f'<text x="0" y="{y + 14}">{safe(row.label)}</text>',
            f'<rect class="{"marked" if row.is_marked else "bar"}" x="0" y="{y + 20}" rx="2" '
            f'width="{row.rate * scale:.1f}" height="{_BAR_HEIGHT}"/>',
            f'<text class="value" x="{end + 6:.1f}" y="{middle + 4:.1f}">{row.rate:.1%}</text>',
        ]
        if row.low is not None and row.high is not None:
            low, high = row.low * scale, row.high * scale
            drawn.append(
                f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
                f'M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"/>'
            )
    return _svg(title, len(rows) * _ROW_HEIGHT, drawn)


def lines(title: str, rows: Sequence[Line]) -> str:
    """Lines over evenly spaced steps from 0 upwards, each with its points, their intervals and a legend."""
    ticks = list(dict.fromkeys(point.tick for row in rows for point in row.points))
    points = [point for row in rows for point in row.points]
    top = max([max(point.rate, point.high or 0.0) for point in points] or [0.0]) or 1.0
    step = (WIDTH - _LEFT - 40) / max(1, len(ticks) - 1)
    x = {tick: _LEFT + 10 + index * step for index, tick in enumerate(ticks)}

    def y(rate: float) -> float:
        return _TOP + _PLOT_HEIGHT * (1 - rate / top)

    drawn = [
        f'<path class="grid" d="M{_LEFT} {y(top * part):.1f}H{WIDTH}"/>'
        f'<text class="tick" text-anchor="end" x="{_LEFT - 4}" y="{y(top * part) + 4:.1f}">{top * part:.0%}</text>'
        for part in (0, 0.5, 1)
    ]
    shown = ticks[:: max(1, -(-len(ticks) * 60 // (WIDTH - _LEFT)))]  # as many as have room
    drawn += [
        f'<text class="tick" text-anchor="middle" x="{x[tick]:.1f}" y="{y(0) + 16:.1f}">'
        f"{safe(tick[:_TICK_CHARS])}</text>"
        for tick in shown
    ]
    for number, row in enumerate(rows):
        path = "L".join(f"{x[point.tick]:.1f} {y(point.rate):.1f}" for point in row.points)
        drawn.append(f'<path class="line s{number % 4}" d="M{path}"/>' if row.points else "")
        drawn += [
            f'<path class="whisker" d="M{x[p.tick]:.1f} {y(p.low):.1f}V{y(p.high):.1f}"/>'
            for p in row.points
            if p.low is not None and p.high is not None
        ]
        drawn += [
            f'<circle class="dot s{number % 4}" r="3.5" cx="{x[point.tick]:.1f}" cy="{y(point.rate):.1f}">'
            f"<title>{safe(row.label)}, {safe(point.tick)}: {point.rate:.1%}</title></circle>"
            for point in row.points
        ]
        legend = _TOP + _PLOT_HEIGHT + _LABELS_HEIGHT - 6 + 18 * number
        drawn.append(
            f'<path class="line s{number % 4}" d="M{_LEFT} {legend - 4}h22"/>'
            f'<text x="{_LEFT + 30}" y="{legend}">{safe(row.label)}</text>'
        )
    return _svg(title, _TOP + _PLOT_HEIGHT + _LABELS_HEIGHT + 18 * len(rows), drawn)


def span(rates: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows how rates differ: around them, a point of percentage wide or more, not below 0."""
    margin = max(0.005, (max(rates) - min(rates)) * 0.1)
    return max(0.0, min(rates) - margin), max(rates) + margin


def scatter(title: str, spots: Sequence[Spot], unit: str, level: float) -> str:
    """Spots by x, from 0, and by rate, each with its label, and a dashed line at the rate `level`.

    Labels that would lie on each other move down.
    """
    low, high = span([level, *(spot.rate for spot in spots)])
    widest = max(spot.x for spot in spots)
    width = WIDTH - _LEFT - _VALUE_WIDTH
    drawn = []
    for part in (0, 0.5, 1):
        y, x, rate = _TOP + _PLOT_HEIGHT * (1 - part), _LEFT + width * part, low + (high - low) * part
        drawn += [
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH}"/>',
            f'<text class="tick" text-anchor="end" x="{_LEFT - 4}" y="{y + 4:.1f}">{rate:.1%}</text>',
            f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{_TOP + _PLOT_HEIGHT + 16}">'
            f"{widest * part:.3g} {safe(unit)}</text>",
        ]

    def height(rate: float) -> float:
        return _TOP + _PLOT_HEIGHT * (high - rate) / (high - low)

    drawn.append(f'<path class="line s1" d="M{_LEFT} {height(level):.1f}H{WIDTH}"/>')
    taken: list[tuple[float, float]] = []
    for spot in sorted(spots, key=lambda spot: (spot.rate, spot.x), reverse=True):
        x, y = _LEFT + width * spot.x / widest, height(spot.rate)
        down = y
        while any(abs(x - other) < _LABEL_WIDTH and abs(down - below) < _LABEL_HEIGHT for other, below in taken):
            down += 1
        taken.append((x, down))
        drawn.append(
            f'<circle class="{"marked" if spot.is_marked else "bar"}" r="4" cx="{x:.1f}" cy="{y:.1f}"/>'
            f'<text x="{x + 7:.1f}" y="{down + 4:.1f}">{safe(spot.label)}</text>'
        )
    lowest = max([down for _, down in taken] or [0.0])
    return _svg(title, max(_TOP + _PLOT_HEIGHT + 24, lowest + 10), drawn)


def _svg(title: str, height: float, drawn: Sequence[str]) -> str:
    body = "\n".join(drawn)
    return f'<svg role="img" viewBox="0 0 {WIDTH} {height}"><title>{safe(title)}</title>\n{body}\n</svg>'
