"""What is said of several experiments side by side: their rates, what is published of them, means
over seeds, and which differences to the first are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config.params import read_params
from flows.differences import UTTERANCES, differences, read_errors
from flows.experiments import committed, reason
from flows.recipe import Cell
from flows.results import SCORE, TRAIN, perplexities, spread, text_on_nonspeech, word_errors


def table(names: Sequence[str], shown: Mapping[str, str]) -> tuple[list[dict[str, str]], list[str]]:
    """Rows (experiment × set and system, WER and clips with text in percent; the optimiser step at
    which the training's accuracy jumps), and the names of the failed experiments.
    """
    rows, failed = [], []
    for name in names:
        row = {"experiment": name}
        metrics = _metrics(shown.get(name))
        if metrics is None:
            failed.append(name)
            row["state"] = f"failed: {reason(name)}"
        else:
            row |= {
                "state": "done",
                **{
                    f"{each['set']}/{each['system']}": each["WER %"]
                    for each in word_errors(metrics)
                },
            }
            row |= {
                f"{each['set']}/{each['system']} text %": each["clips with text %"]
                for each in text_on_nonspeech(metrics)
            }
            row |= {
                f"{each} perplexity": f"{figure:.2f}"
                for each, figure in perplexities(metrics).items()
            }
            training = _metrics(shown.get(name), TRAIN) or {}
            if training.get("steps"):  # else a released projector: nothing was trained
                row["jump at step"] = str((training.get("jump") or {}).get("step") or "none")
        rows.append(row)
    return rows, failed


def side_by_side(rows: Sequence[dict[str, str]], cells: Mapping[str, Cell]) -> list[dict[str, str]]:
    """The rows with what is published of their cells: a column for each set of which any is, "-"
    where there is none.
    """
    said = {
        name: {
            **{f"{each} published": figure for each, figure in cell.wer.items()},
            **{f"{each} perplexity published": figure for each, figure in cell.perplexity.items()},
        }
        for name, cell in cells.items()
    }
    columns = dict.fromkeys(column for figures in said.values() for column in figures)
    return [
        row
        | {
            column: f"{said[name][column]:.2f}" if column in said[name] else "-"
            for column in columns
        }
        for row, name in zip(rows, cells, strict=True)
    ]


def over_seeds(cells: Mapping[str, Cell], shown: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows of cells that differ in ``train.seed`` alone, together: what their names have in common,
    and mean and range of what those that succeeded gave.
    """
    alike: dict[str, list[str]] = {}
    for name, cell in cells.items():
        alike.setdefault(
            repr({key: value for key, value in cell.overrides.items() if key != "train.seed"}), []
        ).append(name)
    rows = []
    for names in (each for each in alike.values() if len(each) > 1):
        label = (
            "-".join(
                words[0]
                for words in zip(*(name.split("-") for name in names))
                if len(set(words)) == 1
            )
            or names[0]
        )
        found = [metrics for name in names if (metrics := _metrics(shown.get(name)))]
        rows += [{"experiments": label, **row} for row in (spread(found) if found else ())]
    return rows


def against_first(
    names: Sequence[str], failed: Sequence[str], shown: Mapping[str, str]
) -> tuple[list[dict[str, str]], str]:
    """Rows of differences of each other experiment to the first one, and what else is to be said:
    which have none and why.
    """
    first, done = names[0], [name for name in names if name not in failed]
    if len(names) < 2:
        return [], ""
    if first in failed:
        return [], f"Nothing stands against the first cell, {first}: it failed."
    held = {name: read_errors(shown[name]) for name in done}
    rows = differences(
        names,
        {name: errors for name, errors in held.items() if errors},
        read_params().score.resamples,
    )
    lacking = [name for name, errors in held.items() if errors is None]
    said = (
        f"No {UTTERANCES} is in DVC's cache (dvc fetch may bring it), so nothing to "
        f"compare, of: {', '.join(lacking)}"
    )
    return rows, said if lacking else ""


def _metrics(revision: str | None, file: Path = SCORE) -> dict[str, Any] | None:
    return committed(revision, file) if revision else None
