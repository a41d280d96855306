"""Line charts as SVG for an HTML page: axes, lines told apart by colour, dash and marker, whiskers
of intervals, marks with words.

In: series of points. Out: ``Figure`` with escaped SVG. Colours are classes of the page's style
sheet (``s0`` to ``s5``), so that a dark page has its own; nothing is said by colour alone. Cost:
milliseconds; a line of more than ``MOST`` points is thinned by means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 250  # units of the view box: a letter of 12 stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 44
MOST = 400  # points in a line: more than the pixels it gets
MARKED = 40  # points: up to so many each gets a marker
STYLES = 6  # colours, each with its dash; and shapes of markers


@dataclass(frozen=True)
class Point:
    """A value, and the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line; its points in the order of x."""

    label: str
    points: Sequence[Point]
    style: int = (
        0  # colour, dash and marker, 36 in all: the same system looks the same in all charts
    )


@dataclass(frozen=True)
class Axis:
    """What an axis says; ``ticks`` (value → word) where round numbers won't do."""

    label: str
    ticks: dict[float, str] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Figure:
    """A chart for the page, with the same figures as a table."""

    title: str
    svg: Markup
    legend: list[tuple[Markup, str]]
    head: list[str]
    rows: list[list[str]]


def figure(
    key: str,
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    marks: Sequence[tuple[float, str]] = (),
    head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> Figure:
    """A chart of one or more series; ``key`` is the beginning of its element ids, ``marks`` are
    places on the x axis that get a word.

    Points whose value is no number are left out. Raises ValueError where no point is left.
    """
    shown = [
        replace(each, points=[point for point in each.points if math.isfinite(point.y)])
        for each in series
    ]
    shown = [each for each in shown if each.points]
    if not shown:
        raise ValueError(f"no points for '{title}'")
    across = Scale.over(
        [point.x for each in shown for point in each.points] + list(x.ticks), x, LEFT, WIDTH - RIGHT
    )
    values = [
        value
        for each in shown
        for point in each.points
        for value in (point.y, point.low, point.high)
        if value is not None
    ]
    up = Scale.over(values, y, HEIGHT - BOTTOM, TOP)
    parts = [_title(key, title, shown), _grid(across, up, x, y)]
    parts += [_mark(across, *mark, _crowded(shown, mark[0], up)) for mark in marks]
    parts += [_line(each, across, up) for each in shown]
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">{}</svg>'
    ).format(WIDTH, HEIGHT, key, key, Markup("").join(parts))
    legend = [(_swatch(each.style), each.label) for each in shown]
    return Figure(
        title, svg, legend if len(legend) > 1 else [], list(head), [list(row) for row in rows]
    )


@dataclass(frozen=True)
class Scale:
    """Values → units of the view box, and the ticks that fit."""

    low: float
    high: float
    start: float
    end: float
    ticks: dict[float, str]

    @classmethod
    def over(cls, values: Sequence[float], axis: Axis, start: float, end: float) -> Scale:
        low = axis.least if axis.least is not None else min(values)
        high = axis.most if axis.most is not None else max(values)
        if high <= low:
            low, high = low - 0.5, high + 0.5
        if axis.ticks:
            room = 0.06 * (high - low)
            return cls(low - room, high + room, start, end, axis.ticks)
        ticks = round_ticks(low, high)
        return cls(
            low,
            max(high, max(ticks)) if axis.most is None and axis.least is not None else high,
            start,
            end,
            {value: f"{value:g}" for value in ticks},
        )

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def round_ticks(low: float, high: float) -> list[float]:
    """Three to six round values (1, 2 or 5 times a power of ten apart) between two."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most ``most`` points: means of runs of neighbours of equal number (the last may be
    shorter), at the run's middle.
    """
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(run[len(run) // 2].x, sum(point.y for point in run) / len(run)) for run in runs]


def _title(key: str, title: str, series: Sequence[Series]) -> Markup:
    ends = "; ".join(
        f"{each.label}: from {each.points[0].y:.4g} to {each.points[-1].y:.4g}" for each in series
    )
    return Markup('<title id="{}-t">{}</title><desc id="{}-d">{}</desc>').format(
        key, title, key, ends
    )


def _grid(across: Scale, up: Scale, x: Axis, y: Axis) -> Markup:
    parts = []
    for value, word in up.ticks.items():
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text class="tick end" x="{}" y="{}">{}</text>'
            ).format(LEFT, up(value), WIDTH - RIGHT, LEFT - 6, up(value) + 4, word)
        )
    for value, word in across.ticks.items():
        parts.append(
            Markup(
                '<path class="grid" d="M{0} {1}v4"/><text class="tick middle" x="{0}" '
                'y="{2}">{3}</text>'
            ).format(across(value), HEIGHT - BOTTOM, HEIGHT - BOTTOM + 17, word)
        )
    parts.append(
        Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)
    )
    parts.append(Markup('<text class="tick" x="2" y="12">{}</text>').format(y.label))
    parts.append(
        Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
            WIDTH - RIGHT, HEIGHT - 8, x.label
        )
    )
    return Markup("").join(parts)


def _crowded(series: Sequence[Series], place: float, up: Scale) -> bool:
    """Whether lines run through the upper half where the word of a mark would stand:
    right of it.
    """
    after = [up(point.y) for each in series for point in each.points if point.x >= place] or [
        float(HEIGHT)
    ]
    return sum(after) / len(after) < (TOP + HEIGHT - BOTTOM) / 2


def _mark(across: Scale, place: float, word: str, low: bool) -> Markup:
    side = "end" if across(place) > WIDTH * 0.6 else ""
    shift = -4 if side else 4
    return Markup(
        '<path class="mark" d="M{} {}V{}"/><text class="tick {}" x="{}" y="{}">{}</text>'
    ).format(
        across(place),
        TOP,
        HEIGHT - BOTTOM,
        side,
        across(place) + shift,
        HEIGHT - BOTTOM - 8 if low else TOP + 11,
        word,
    )


def _line(series: Series, across: Scale, up: Scale) -> Markup:
    colour = series.style % STYLES
    points = thinned(series.points)
    way = "L".join(f"{across(point.x)} {up(point.y)}" for point in points)
    parts = [Markup('<path class="line s{}" d="M{}"/>').format(colour, way)]
    if len(points) <= MARKED:
        for point in points:
            if point.low is not None and point.high is not None:
                parts.append(
                    Markup('<path class="whisker s{}" d="M{} {}V{}"/>').format(
                        colour, across(point.x), up(point.low), up(point.high)
                    )
                )
            parts.append(_marker(series.style, across(point.x), up(point.y)))
    return Markup("").join(parts)


def _marker(style: int, x: float, y: float) -> Markup:
    """A circle, square, triangle, diamond, cross or triangle on its tip: by style, so that lines
    differ without colour. Where colours come round again, each gets the shape after the one it had.
    """
    shapes = (
        f"M{x - 3.2:.1f} {y}a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0z",
        f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        f"M{x} {y - 4:.1f}l4 7h-8z",
        f"M{x} {y - 4.2:.1f}l4.2 4.2l-4.2 4.2l-4.2 -4.2z",
        f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6",
        f"M{x} {y + 4:.1f}l4 -7h-8z",
    )
    return Markup('<path class="marker s{}" d="{}"/>').format(
        style % STYLES, shapes[(style + style // STYLES) % STYLES]
    )


def _swatch(style: int) -> Markup:
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 12" aria-hidden="true"><path class="line s{}" '
        'd="M1 6H29"/>{}</svg>'
    ).format(style % STYLES, _marker(style, 15, 6))


def whisker(value: float, low: float, high: float, most: float) -> Markup:
    """A small picture of a value with its interval, on a scale from 0 to ``most``, for a cell of a
    table that says it in words too.
    """
    place = [round(4 + 112 * min(each / most, 1), 1) if most else 4 for each in (low, value, high)]
    return Markup(
        '<svg class="interval" viewBox="0 0 120 12" aria-hidden="true"><path class="axis" d="M4 6H116"/>'
        '<path class="whisker s0" d="M{} 6H{}"/><circle class="marker s0" cx="{}" cy="6" r="3.4"/></svg>'
    ).format(escape(place[0]), place[2], place[1])
