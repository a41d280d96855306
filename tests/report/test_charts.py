"""Charts: round ticks inside the axis, thinned lines with the same mean, escaped texts."""

from __future__ import annotations

import doctest
import math
import re
from itertools import pairwise
from types import ModuleType
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.report import alignment, charts, tables
from components.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    Series,
    draw_chart,
    round_ticks,
    thin_points,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(numbers, st.floats(1e-3, 1e6))
def test_ticks_are_few_equidistant_and_inside(low: float, span: float) -> None:
    ticks = round_ticks(low, low + span)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    gaps = {round((second - first) / span, 4) for first, second in pairwise(ticks)}
    assert max(gaps) - min(gaps) < 1e-3


def test_a_long_line_is_thinned_to_the_same_mean() -> None:
    points = [Point(step, step % 7) for step in range(10 * MAX_POINTS)]
    few = thin_points(points)
    assert len(few) == MAX_POINTS and few[0].x < few[-1].x
    assert sum(point.y for point in few) / len(few) == pytest.approx(
        sum(point.y for point in points) / len(points)
    )
    assert thin_points(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_everything_is_drawn_inside_and_texts_are_escaped() -> None:
    lines = [
        Series("<b>", [Point(0, 10, 5, 20), Point(3, 4, 1, 9), Point(4, math.nan)], 0),
        Series("a & b", [Point(0, 8), Point(3, 8)], 1),
    ]
    chart = draw_chart(
        "x", "1 < 2", lines, Axis("step"), Axis("%", minimum=0), marks=[(2, "</svg>")]
    )
    root = ElementTree.fromstring(str(chart.svg))  # well formed
    assert {"1 < 2", "</svg>"} <= {node.text for node in root.iter()}
    assert [label for _, label in chart.legend] == ["<b>", "a & b"]
    classes = {node.get("class") for node in root.iter() if node.get("class")}
    assert {"line s0", "line s1", "whisker s0"} <= classes and "whisker s1" not in classes
    for node in root.iter():
        if (node.get("class") or "").startswith("line"):
            points = [
                tuple(map(float, pair.split()))
                for pair in re.split("[ML]", node.get("d") or "")[1:]
            ]
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert "nan" not in str(chart.svg)


def test_a_chart_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="'x'"):
        draw_chart("x", "x", [Series("a", [Point(1, math.nan)])], Axis("x"), Axis("y"))


def test_a_single_value_has_a_chart() -> None:
    svg = str(draw_chart("x", "x", [Series("a", [Point(5, 5)])], Axis("x"), Axis("y")).svg)
    assert "nan" not in svg.lower()
    start = next(
        node.get("d") or ""
        for node in ElementTree.fromstring(svg).iter()
        if node.get("class") == "line s0"
    )
    x, y = map(float, start.removeprefix("M").split())
    assert LEFT < x < WIDTH - RIGHT and TOP < y < HEIGHT - BOTTOM


def test_twenty_four_lines_differ_and_look_as_in_the_legend() -> None:
    chart = draw_chart(
        "x",
        "x",
        [Series(f"system {style}", [Point(15, 6)], style) for style in range(24)],
        Axis("x"),
        Axis("y"),
    )
    drawn = [
        (node.get("class") or "", outline(node.get("d") or "")) for node in marks(str(chart.svg))
    ]
    legend = [
        (node.get("class") or "", outline(node.get("d") or ""))
        for swatch, _ in chart.legend
        for node in marks(str(swatch))
    ]
    assert len(set(drawn)) == 24 and drawn == legend


def marks(svg: str) -> list[ElementTree.Element]:
    return [
        node
        for node in ElementTree.fromstring(svg).iter()
        if (node.get("class") or "").startswith("marker")
    ]


def outline(path: str) -> str:
    """A path without its start."""
    return re.sub(r"^M\S+ [-.0-9]+", "", path)


@pytest.mark.parametrize("module", [alignment, charts, tables], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
