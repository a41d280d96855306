"""Charts of a training: loss, accuracy and word error rate on dev by optimiser step.

In: ``metrics/curve.csv`` and ``metrics/train.json``. Out: charts; a column without values has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from components.report.charts import Axis, Chart, Point, Series, draw_chart
from components.runtime.csv_files import read_csv
from components.runtime.json_files import read_json

LOSS = Axis("cross-entropy, nats a token", minimum=0)
ACCURACY = Axis("% of target tokens", minimum=0, maximum=100)
ERROR_RATE = Axis("word error rate, %", minimum=0)
TABLE_ROWS = 12  # of a chart's table, evenly spaced over the steps
DRAWN = ("loss", "accuracy", "dev_wer")  # columns
Marks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class _Jump:
    """The shape of ``jump`` in ``metrics/train.json``, as far as it is read."""

    step: int | None


def draw_training(curve: Path, summary: Path) -> list[Chart]:
    """Loss, accuracy of the next token and dev word error rate by optimiser step.

    The start of each later stage is marked; in the chart of the accuracy its jump, if there is one.
    """
    rows = read_csv(curve, ("stage",), counts=("step",), optional_numbers=DRAWN)
    if not rows:
        return []
    stage_starts = [
        (int(row["step"]), row["stage"])
        for previous, row in pairwise(rows)
        if previous["stage"] != row["stage"]
    ]
    jump_step = read_json(summary, keys={"jump": _Jump})["jump"]["step"]
    jumps = [(jump_step, f"jump at {jump_step}")] if jump_step is not None else []
    x_axis = Axis("optimiser step", minimum=0, maximum=len(rows))
    return [
        *_draw_column("loss", "Loss in training", rows, x_axis, LOSS, marks=stage_starts),
        *_draw_column(
            "accuracy",
            "Accuracy of the next token in training",
            rows,
            x_axis,
            ACCURACY,
            factor=100,
            marks=jumps or stage_starts,
        ),
        *_draw_dev(rows, x_axis, marks=stage_starts),
    ]


def _draw_column(
    column: str,
    title: str,
    rows: Sequence[Mapping[str, str]],
    x_axis: Axis,
    y_axis: Axis,
    *,
    factor: float = 1,
    marks: Marks,
) -> list[Chart]:
    """The chart of a column of ``curve.csv``, times ``factor``; none if it has no number."""
    points = [Point(int(row["step"]), factor * _number(row[column])) for row in rows]
    if not any(math.isfinite(point.y) for point in points):
        return []
    last = TABLE_ROWS - 1
    indices = sorted({round(step * (len(rows) - 1) / last) for step in range(TABLE_ROWS)})
    table = [
        [row["step"], row["stage"], f"{factor * _number(row[column]):.4g}"]
        for row in (rows[index] for index in indices)
    ]
    head = ("step", "stage", y_axis.label)
    series = [Series(column, points)]
    return [
        draw_chart(
            f"train-{column}", title, series, x_axis, y_axis, marks=marks, head=head, rows=table
        )
    ]


def _draw_dev(rows: Sequence[Mapping[str, str]], x_axis: Axis, *, marks: Marks) -> list[Chart]:
    """The chart of the word error rate on dev; none if dev was never decoded."""
    decoded = [
        (int(row["step"]) + 1, row["stage"], _number(row["dev_wer"]))
        for row in rows
        if row["dev_wer"]
    ]
    if not decoded:
        return []
    return [
        draw_chart(
            "train-dev",
            "Word error rate on dev in training, greedy search",
            [Series("dev", [Point(step, 100 * rate) for step, _, rate in decoded])],
            x_axis,
            ERROR_RATE,
            marks=marks,
            head=("step", "stage", ERROR_RATE.label),
            rows=[[str(step), stage, f"{100 * rate:.2f}"] for step, stage, rate in decoded],
        )
    ]


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan
