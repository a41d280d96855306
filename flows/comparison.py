"""Tables of several experiments side by side: their rates, published ones, means over seeds, and
which differences to the first are significant.

In: names and commits of experiments, and the cells of a recipe. Out: rows of text by column. Cost:
about a second an experiment, for its errors by utterance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config.params import read_params
from components.plan.recipe import Figures, RecipeCell
from flows.differences import UTTERANCES, list_differences, read_errors
from flows.experiments import read_committed, read_failure
from flows.results import (
    SCORE,
    TRAIN,
    list_perplexities,
    list_texts,
    list_word_errors,
    summarize_repeats,
)

Row = dict[str, str]  # text by column


def build_table(names: Sequence[str], commits: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Rows of text by column, and the names of the failed experiments.

    A row has an experiment's WER by set and system and its clips with text, in percent; the epochs
    of the training by stage, its hours of audio, and the optimiser step at which its accuracy
    jumps.

    ``commits`` are those of the experiments that succeeded, by name.
    """
    rows, failed = [], []
    for name in names:
        scores = _read_metrics(commits.get(name))
        if scores is None:
            failed.append(name)
            rows.append({"experiment": name, "state": f"failed: {read_failure(name)}"})
            continue
        training = _read_metrics(commits.get(name), TRAIN) or {}
        rows.append({"experiment": name, "state": "done"} | _figures(scores, training))
    return rows, failed


def _figures(scores: Mapping[str, Any], training: Mapping[str, Any]) -> Row:
    """The figures of one experiment by column."""
    row = {f"{word['set']}/{word['system']}": word["WER %"] for word in list_word_errors(scores)}
    for text in list_texts(scores):
        row[f"{text['set']}/{text['system']} text %"] = text["clips with text %"]
    for name, perplexity in list_perplexities(scores).items():
        row[f"{name} perplexity"] = f"{perplexity:.2f}"
    if training.get("steps"):  # a released projector has none: nothing was trained
        if "epochs" in training:  # experiments of an earlier version do not say
            row["epochs"] = " + ".join(f"{count:.2f}" for count in training["epochs"].values())
            row["audio h"] = f"{sum(training['audio_hours'].values()):,.1f}"
        row["jump at step"] = str((training.get("jump") or {}).get("step") or "none")
    return row


def add_published(
    rows: Sequence[Row], cells: Mapping[str, RecipeCell], other_systems: Figures | None = None
) -> list[Row]:
    """The rows with the published figures of their cells: a column for each set that has any, "-"
    if a cell has none. A row follows for each of ``other_systems``, which are no cell, with its
    published word error rates by set and nothing else.
    """
    published = {
        name: {
            **{f"{test_set} published": figure for test_set, figure in cell.wer.items()},
            **{
                f"{test_set} perplexity published": figure
                for test_set, figure in cell.perplexity.items()
            },
        }
        for name, cell in cells.items()
    }
    published |= {
        name: {f"{test_set} published": figure for test_set, figure in figures.items()}
        for name, figures in (other_systems or {}).items()
    }
    columns = list(dict.fromkeys(column for figures in published.values() for column in figures))

    def format_figure(name: str, column: str) -> str:
        figures = published[name]
        return f"{figures[column]:.2f}" if column in figures else "-"

    more_rows = [{"experiment": name, "state": "published"} for name in other_systems or {}]
    all_rows = [*rows, *more_rows]
    return [
        row | {column: format_figure(name, column) for column in columns}
        for row, name in zip(all_rows, published, strict=True)
    ]


def summarize_seeds(cells: Mapping[str, RecipeCell], commits: Mapping[str, str]) -> list[Row]:
    """Rows of cells that differ in ``train.seed`` alone, together: what their names have in common,
    and mean and range of those that succeeded.
    """
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        overrides = {key: value for key, value in cell.overrides.items() if key != "train.seed"}
        groups.setdefault(repr(overrides), []).append(name)
    rows = []
    for names in groups.values():
        repeats = [scores for name in names if (scores := _read_metrics(commits.get(name)))]
        if len(names) > 1 and repeats:
            label = _common_name(names)
            rows += [{"experiments": label, **row} for row in summarize_repeats(repeats)]
    return rows


def _common_name(names: Sequence[str]) -> str:
    """The parts between hyphens that names share at the same position; else the first name."""
    parts = zip(*(name.split("-") for name in names))
    return "-".join(words[0] for words in parts if len(set(words)) == 1) or names[0]


def compare_to_first(
    names: Sequence[str], failed: Sequence[str], commits: Mapping[str, str]
) -> tuple[list[Row], str]:
    """Rows of the differences of each other experiment to the first, and a remark: which have none
    and why.
    """
    if len(names) < 2:
        return [], ""
    if names[0] in failed:
        return [], f"Nothing is compared with the first cell, {names[0]}: it failed."
    errors = {name: read_errors(commits[name]) for name in names if name not in failed}
    rows = list_differences(
        names,
        {name: systems for name, systems in errors.items() if systems},
        read_params().score.resamples,
    )
    missing = [name for name, systems in errors.items() if systems is None]
    if not missing:
        return rows, ""
    return rows, (
        f"Not compared, since DVC's cache has no {UTTERANCES} of them (dvc fetch may bring it): "
        f"{', '.join(missing)}."
    )


def _read_metrics(revision: str | None, file: Path = SCORE) -> dict[str, Any] | None:
    return read_committed(revision, file) if revision else None
