"""Capability emergence: the step at which the accuracy of the next token jumps (SLAM-ASR, arXiv
2402.08846, section 5).

In: the training curve, one row an optimiser step. Out: ``metrics/train.json``, plain figures
without wall times: the jump, the accuracy on either side of it, and the best word error rate on dev
of each curriculum stage. Cost: milliseconds.

Steps count optimiser steps over the whole curriculum: a row's accuracy holds after as many steps as
its number says, its dev word error rate after one more.

What a jump is. The paper's curves rise at once to what the text alone gives away (about 40 %),
crawl, spike, and crawl again (figures 2 to 4); a threshold would see the first rise, and the
steepest difference would see noise. So the curve is smoothed by a running median, which keeps
edges, and cut in two where two constants fit it best (least squares): the cut is where it crosses
from one level to the other, and a first rise of few steps weighs little. The cut is a jump where

* the levels, each the median of its side, are ``RISE`` apart, and the upper one is ``HEARD`` at least;
* few steps lie between: those in the middle half of the way from level to level are at most a third of those below it and of
  those above. A straight line has two thirds there, a rise that slows down from the start on has no lower level at all; both are
  learning, and no jump. The rule knows no scale: a run of twice the steps at half the learning rate has its jump where it was.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RISE = 0.2  # of accuracy: a third of the paper's jumps, and far over what batches differ by
JUMP_FLOOR = 0.5  # accuracy: text alone gives away less (figure 4: about 0.4)
BETWEEN = 1 / 3  # most steps on the way, as a share of those on either level
FEWEST = 20  # steps: below, a level is a handful of batches
WINDOW = (5, 51)  # steps of the running median: 2 % of the run, within these


@dataclass(frozen=True)
class Jump:
    """``step``: optimiser steps before it; ``before`` and ``after``: median accuracy of either
    side, as fractions.
    """

    step: int
    before: float
    after: float


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Running median, shape (steps,); at the ends of what is there. What is no number is left out
    of it.
    """
    half = int(np.clip(0.02 * len(values), *WINDOW)) // 2
    padded = np.pad(np.asarray(values, dtype=float), half, constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)


def find_jump(accuracy: Sequence[float]) -> Jump | None:
    """The jump of an accuracy by step (fractions), as the module's docstring defines it; None where
    there is none.
    """
    if len(accuracy) < FEWEST:
        return None
    curve = smoothed(accuracy)
    step = _cut(curve)
    before, after = float(np.median(curve[:step])), float(np.median(curve[step:]))
    if after - before < RISE or after < JUMP_FLOOR:
        return None
    quarter = (after - before) / 4
    below, above = int((curve <= before + quarter).sum()), int((curve >= after - quarter).sum())
    between = len(curve) - below - above
    return Jump(step, before, after) if between <= BETWEEN * min(below, above) else None


def _cut(curve: np.ndarray) -> int:
    """The place where two constants fit best: their sum of squares falls by what the
    means explain.
    """
    left = np.arange(1, len(curve))
    sums = np.cumsum(curve)[:-1]
    difference = (curve.sum() - sums) / (len(curve) - left) - sums / left
    return int(left[np.argmax(left * (len(curve) - left) * difference**2)])


def summary(curve: Path) -> dict[str, Any]:
    """What ``metrics/train.json`` says of a training curve (``metrics/curve.csv``); steps 0 and no
    jump where nothing was trained.

    ``null`` stands where there is no figure. A stage whose name stands twice in the curriculum has
    one best.
    """
    with curve.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    accuracy = [float(row["accuracy"]) for row in rows]
    found = find_jump(accuracy)
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (
            row["dev_wer"]
            and float(row["dev_wer"]) < best.get(row["stage"], {"dev_wer": np.inf})["dev_wer"]
        ):
            best[row["stage"]] = {"dev_wer": float(row["dev_wer"]), "step": int(row["step"]) + 1}
    return {
        "steps": len(rows),
        "accuracy": round(float(smoothed(accuracy)[-1]), 6) if accuracy else None,
        "jump": {
            "step": found.step if found else None,
            "accuracy_before": round(found.before, 6) if found else None,
            "accuracy_after": round(found.after, 6) if found else None,
        },
        "best": best,
    }


def write(curve: Path, path: Path) -> None:
    """Writes the summary of ``curve`` as JSON."""
    path.write_text(json.dumps(summary(curve), indent=1, sort_keys=True) + "\n")
