"""Capability emergence: the step at which the accuracy of the next token jumps (SLAM-ASR, arXiv
2402.08846, section 5).

In: the training curve, one row for each optimiser step. Out: ``metrics/train.json``, plain figures
without wall times: the jump, the accuracy on either side of it, and the best word error rate on dev
of each curriculum stage. Cost: milliseconds.

Steps count optimiser steps over the whole curriculum: the accuracy of a row is that after as many
steps as its number says, its dev word error rate that after one more.

Definition of a jump. The curves of the paper first rise to what the text alone predicts (about
40 %), crawl, spike, and crawl again (figures 2 to 4); a threshold would detect the first rise, and
the steepest difference would detect noise. So the curve is smoothed by a running median, which
preserves edges, and split in two where two constants fit it best (least squares): the split is
where it crosses from one level to the other, and a first rise of few steps has little weight. The
split is a jump where

* the levels, each the median of its side, differ by at least ``RISE``, and the upper one is at
  least ``JUMP_FLOOR``;
* few steps are between them: those in the middle half of the way from level to level are at most a
  third of those below it and of those above. A straight line has two thirds there, and a rise that
  slows down from the start has no lower level at all; both are learning, not a jump. The rule does
  not depend on the scale: a run of twice the steps at half the learning rate has its jump at the
  same place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.runtime.csv_files import read_csv

RISE = 0.2  # of accuracy: a third of the paper's jumps, and far above the noise of batches
JUMP_FLOOR = 0.5  # accuracy: text alone predicts less (figure 4: about 0.4)
MAX_BETWEEN = 1 / 3  # steps between the levels, as a share of those on either level
MIN_STEPS = 20  # of a curve: with fewer, a level is a handful of batches
WINDOW = (5, 51)  # steps of the running median: 2 % of the run, within these


@dataclass(frozen=True)
class Jump:
    """A jump of the accuracy."""

    step: int  # number of optimiser steps before it
    before: float  # median accuracy on that side, as a fraction
    after: float


def running_median(values: Sequence[float]) -> np.ndarray:
    """Running median, shape (steps,). At the ends the window is shorter; NaN is left out."""
    half = int(np.clip(0.02 * len(values), *WINDOW)) // 2
    padded = np.pad(np.asarray(values, dtype=float), half, constant_values=np.nan)
    window_view = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    median: np.ndarray = np.nanmedian(window_view, axis=1)
    return median


def find_jump(accuracy: Sequence[float]) -> Jump | None:
    """The jump in an accuracy by step (fractions), as the module docstring defines it; None where
    there is none.
    """
    if len(accuracy) < MIN_STEPS:
        return None
    curve = running_median(accuracy)
    step = _best_split(curve)
    before, after = float(np.median(curve[:step])), float(np.median(curve[step:]))
    if after - before < RISE or after < JUMP_FLOOR:
        return None
    quarter = (after - before) / 4
    below, above = int((curve <= before + quarter).sum()), int((curve >= after - quarter).sum())
    between = len(curve) - below - above
    return Jump(step, before, after) if between <= MAX_BETWEEN * min(below, above) else None


def _best_split(curve: np.ndarray) -> int:
    """The index at which two constants fit best: where the difference of the means explains most of
    the sum of squares.
    """
    num_before: np.ndarray = np.arange(1, len(curve))
    num_after: np.ndarray = len(curve) - num_before
    sums = np.cumsum(curve)[:-1]
    difference = (curve.sum() - sums) / num_after - sums / num_before
    return int(num_before[np.argmax(num_before * num_after * difference**2)])


def summarise(curve: Path) -> dict[str, Any]:
    """The content of ``metrics/train.json`` for a training curve (``metrics/curve.csv``); 0 steps
    and no jump where nothing was trained.

    A figure that does not exist is None. A stage whose name is twice in the curriculum has one
    best, and epochs and hours of both.
    """
    numbers = ("accuracy", "epoch", "audio_s")
    rows = read_csv(
        curve, ("stage",), counts=("step",), numbers=numbers, optional_numbers=("dev_wer",)
    )
    accuracy = [float(row["accuracy"]) for row in rows]
    lengths = _stage_lengths(rows)
    jump = find_jump(accuracy)
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (
            row["dev_wer"]
            and float(row["dev_wer"]) < best.get(row["stage"], {"dev_wer": np.inf})["dev_wer"]
        ):
            best[row["stage"]] = {"dev_wer": float(row["dev_wer"]), "step": int(row["step"]) + 1}
    return {
        "steps": len(rows),
        "epochs": {stage: round(epochs, 6) for stage, (epochs, _) in lengths.items()},
        "audio_hours": {stage: round(seconds / 3600, 6) for stage, (_, seconds) in lengths.items()},
        "accuracy": round(float(running_median(accuracy)[-1]), 6) if accuracy else None,
        "jump": {
            "step": jump.step if jump else None,
            "accuracy_before": round(jump.before, 6) if jump else None,
            "accuracy_after": round(jump.after, 6) if jump else None,
        },
        "best": best,
    }


def _stage_lengths(rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[float, float]]:
    """Passes over its utterances and seconds of audio that a stage has seen, by its name."""
    lengths: dict[str, tuple[float, float]] = {}
    stage, previous = "", 0.0
    for row in rows:
        epoch = float(row["epoch"])
        if row["stage"] != stage:
            stage, previous = row["stage"], 0.0
        passes = epoch - previous if epoch > previous else epoch  # lower: it begins again
        epochs, seconds = lengths.get(row["stage"], (0.0, 0.0))
        lengths[row["stage"]] = epochs + passes, seconds + float(row["audio_s"])
        previous = epoch
    return lengths


def write_summary(curve: Path, path: Path) -> None:
    """Writes the summary of ``curve`` as JSON."""
    path.write_text(json.dumps(summarise(curve), indent=1, sort_keys=True) + "\n")
