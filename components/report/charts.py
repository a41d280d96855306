"""Line charts as SVG for an HTML page: axes, lines that differ in colour, dash and marker, whiskers
for intervals, labelled marks.

In: series of points. Out: a ``Chart`` with escaped SVG. Colours are classes of the page's style
sheet (``s0`` to ``s5``), so that a dark page can use other colours. No information is in the colour
alone. Cost: milliseconds; a line of more than ``MAX_POINTS`` points is thinned by means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 250  # units of the view box: a letter of 12 stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 44  # margins around the plot
MAX_POINTS = 400  # in a line: more than the pixels that it gets
MAX_MARKERS = 40  # a line with more points has no markers
STYLES = 6  # colours, each with its dash, and as many shapes of markers


@dataclass(frozen=True)
class Point:
    """A value and the ends of its interval, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line; its points in the order of x.

    ``style`` selects colour, dash and marker, 36 combinations in all. A system has the same style
    in all charts.
    """

    label: str
    points: Sequence[Point]
    style: int = 0


@dataclass(frozen=True)
class Axis:
    """The label of an axis, its limits if they are fixed, and its ticks (value → text) if they are
    not round numbers.
    """

    label: str
    ticks: dict[float, str] = field(default_factory=dict)
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Chart:
    """A chart for the page, with the same values as a table (``head`` and ``rows``)."""

    title: str
    svg: Markup
    legend: list[tuple[Markup, str]]
    head: list[str]
    rows: list[list[str]]


def draw_chart(
    key: str,
    title: str,
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    *,
    marks: Sequence[tuple[float, str]] = (),
    head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> Chart:
    """A chart of one or more series.

    ``key`` is the prefix of its element ids, ``marks`` are values of x with a text. Points whose y
    is not finite are left out. Raises ValueError if no point remains.
    """
    finite = [
        replace(line, points=[point for point in line.points if math.isfinite(point.y)])
        for line in series
    ]
    lines = [line for line in finite if line.points]
    if not lines:
        raise ValueError(f"no points for '{title}'")
    x_values = [point.x for line in lines for point in line.points] + list(x_axis.ticks)
    x_scale = Scale.for_values(x_values, x_axis, LEFT, WIDTH - RIGHT)
    y_values = [
        value
        for line in lines
        for point in line.points
        for value in (point.y, point.low, point.high)
        if value is not None
    ]
    y_scale = Scale.for_values(y_values, y_axis, HEIGHT - BOTTOM, TOP)
    parts = [_title(key, title, lines), _grid(x_scale, y_scale, x_axis, y_axis)]
    parts += [_mark(x_scale, *mark, _is_crowded(lines, mark[0], y_scale)) for mark in marks]
    parts += [_line(line, x_scale, y_scale) for line in lines]
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">{}</svg>'
    ).format(WIDTH, HEIGHT, key, key, Markup("").join(parts))
    legend = [(_swatch(line.style), line.label) for line in lines]
    return Chart(
        title, svg, legend if len(legend) > 1 else [], list(head), [list(row) for row in rows]
    )


@dataclass(frozen=True)
class Scale:
    """Maps the values ``low`` to ``high`` to the units ``start`` to ``end`` of the view box."""

    low: float
    high: float
    start: float
    end: float
    ticks: dict[float, str]

    @classmethod
    def for_values(cls, values: Sequence[float], axis: Axis, start: float, end: float) -> Scale:
        """The scale on which all values, the limits of the axis and its ticks are visible."""
        low = axis.minimum if axis.minimum is not None else min(values)
        high = axis.maximum if axis.maximum is not None else max(values)
        if high <= low:
            low, high = low - 0.5, high + 0.5
        if axis.ticks:
            margin = 0.06 * (high - low)
            return cls(low - margin, high + margin, start, end, axis.ticks)
        ticks = round_ticks(low, high)
        if axis.maximum is None and axis.minimum is not None:
            high = max(high, max(ticks))
        return cls(low, high, start, end, {value: f"{value:g}" for value in ticks})

    def __call__(self, value: float) -> float:
        """The unit of a value, rounded to one decimal."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start + fraction * (self.end - self.start), 1)


def round_ticks(low: float, high: float) -> list[float]:
    """Three to six round values between two, with steps of 1, 2 or 5 times a power of ten.

    >>> round_ticks(0, 7.3)
    [0, 2, 4, 6]
    """
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(count * step, 10) for count in range(first, math.floor(high / step + 1e-9) + 1)]


def thin_points(points: Sequence[Point], max_points: int = MAX_POINTS) -> list[Point]:
    """At most ``max_points`` points: means over runs of neighbours, at the x of the run's middle.

    The runs have equal lengths; the last one may be shorter.
    """
    size = math.ceil(len(points) / max_points)
    if size <= 1:
        return list(points)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(run[len(run) // 2].x, sum(point.y for point in run) / len(run)) for run in runs]


def _title(key: str, title: str, series: Sequence[Series]) -> Markup:
    ends = "; ".join(
        f"{line.label}: from {line.points[0].y:.4g} to {line.points[-1].y:.4g}" for line in series
    )
    return Markup('<title id="{}-t">{}</title><desc id="{}-d">{}</desc>').format(
        key, title, key, ends
    )


def _grid(x_scale: Scale, y_scale: Scale, x_axis: Axis, y_axis: Axis) -> Markup:
    parts = []
    for value, text in y_scale.ticks.items():
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text class="tick end" x="{}" y="{}">{}</text>'
            ).format(LEFT, y_scale(value), WIDTH - RIGHT, LEFT - 6, y_scale(value) + 4, text)
        )
    for value, text in x_scale.ticks.items():
        parts.append(
            Markup(
                '<path class="grid" d="M{0} {1}v4"/><text class="tick middle" x="{0}" '
                'y="{2}">{3}</text>'
            ).format(x_scale(value), HEIGHT - BOTTOM, HEIGHT - BOTTOM + 17, text)
        )
    parts.append(
        Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)
    )
    parts.append(Markup('<text class="tick" x="2" y="12">{}</text>').format(y_axis.label))
    parts.append(
        Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
            WIDTH - RIGHT, HEIGHT - 8, x_axis.label
        )
    )
    return Markup("").join(parts)


def _is_crowded(series: Sequence[Series], x: float, y_scale: Scale) -> bool:
    """Whether lines run through the upper half right of ``x``, where the text of a mark is."""
    heights = [y_scale(point.y) for line in series for point in line.points if point.x >= x] or [
        float(HEIGHT)
    ]
    return sum(heights) / len(heights) < (TOP + HEIGHT - BOTTOM) / 2


def _mark(x_scale: Scale, x: float, text: str, is_low: bool) -> Markup:
    anchor = "end" if x_scale(x) > WIDTH * 0.6 else ""
    shift = -4 if anchor else 4
    return Markup(
        '<path class="mark" d="M{} {}V{}"/><text class="tick {}" x="{}" y="{}">{}</text>'
    ).format(
        x_scale(x),
        TOP,
        HEIGHT - BOTTOM,
        anchor,
        x_scale(x) + shift,
        HEIGHT - BOTTOM - 8 if is_low else TOP + 11,
        text,
    )


def _line(series: Series, x_scale: Scale, y_scale: Scale) -> Markup:
    colour = series.style % STYLES
    points = thin_points(series.points)
    path = "L".join(f"{x_scale(point.x)} {y_scale(point.y)}" for point in points)
    parts = [Markup('<path class="line s{}" d="M{}"/>').format(colour, path)]
    if len(points) <= MAX_MARKERS:
        for point in points:
            if point.low is not None and point.high is not None:
                parts.append(
                    Markup('<path class="whisker s{}" d="M{} {}V{}"/>').format(
                        colour, x_scale(point.x), y_scale(point.low), y_scale(point.high)
                    )
                )
            parts.append(_marker(series.style, x_scale(point.x), y_scale(point.y)))
    return Markup("").join(parts)


def _marker(style: int, x: float, y: float) -> Markup:
    """A circle, square, triangle, diamond, cross or inverted triangle, so that lines differ without
    colour.

    A colour that is used again has the next shape.
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


def draw_interval(value: float, low: float, high: float, maximum: float) -> Markup:
    """A small picture of a value and its interval on a scale from 0 to ``maximum``, for a table
    that has the numbers too.
    """
    start, middle, end = (
        round(4 + 112 * min(rate / maximum, 1), 1) if maximum else 4 for rate in (low, value, high)
    )
    return Markup(
        '<svg class="interval" viewBox="0 0 120 12" aria-hidden="true">'
        '<path class="axis" d="M4 6H116"/><path class="whisker s0" d="M{} 6H{}"/>'
        '<circle class="marker s0" cx="{}" cy="6" r="3.4"/></svg>'
    ).format(escape(start), end, middle)
