"""``python -m components.report compare [LABEL=]FOLDER [LABEL=]FOLDER … [--out FILE]``: several
finished runs on one page.

In: folders of runs (workspaces, or folders with ``score.json`` and ``utterances.parquet``); a label
is by default the folder's name. Out: ``runs/report/compare.html``, ignored by Git and DVC: word
error rates side by side with their differences to the first run and whether these are more than
chance (``components.score.significance``), and the error browser over all systems of all runs.
Cost: that of a report for each run, and about a second a set and system for the tests. Audio is
that of the first run: what it did not hear has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.config.errors import InputError
from components.config.params import read_params
from components.report import tables
from components.report.browser import browsed
from components.report.browser import payload as browser_data
from components.report.build import MEGABYTE, SHARDS, contents_of
from components.report.clips import clips
from components.report.experiment import Experiment, read_experiment
from components.report.page import page
from components.score.significance import compare as tested

# of speakers: the interval's ends then move by a few percent of its width from seed to seed
RESAMPLES = 1000


def compare(arguments: Sequence[str]) -> None:
    """Writes the page; raises InputError where there are fewer than two runs, two have one label,
    or they can't be compared.
    """
    parser = argparse.ArgumentParser(prog="python -m components.report compare")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[LABEL=]FOLDER",
        help="a finished run; differences are to the first",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/report/compare.html"), help="the page to write"
    )
    options = parser.parse_args(arguments)
    experiments = [read_experiment(folder, label) for label, folder in map(_labelled, options.runs)]
    labels = [each.label for each in experiments]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(
            "Two runs or more are compared, each under a label of its own (given: "
            f"{', '.join(labels)}).",
            subject="runs",
            hint="Write LABEL=FOLDER.",
        )
    settings = read_params().report
    shown = browsed(experiments, settings.utterances)
    shards = _labelled(options.runs[0])[1] / SHARDS
    own = {each.key for each in experiments[0].utterances}  # its shards hold nothing else
    heard = [each for each in shown.utterances if each.key in own]
    held = (
        clips(heard, shards, settings.clips, int(settings.megabytes * MEGABYTE))
        if shards.is_dir()
        else {}
    )
    rates = tables.side_by_side(experiments)
    chances = [significance(experiments, *row[:2]) for row in rates]
    context = {
        **contents_of(_joined(experiments), shown, held, {}),
        "title": "Libretto comparison: " + ", ".join(labels),
        "names": {},
        "training": [],
        "artifacts": [],
        "timings": [],
        "runs": labels,
        "comparison": rates,
        "chances": chances if any(any(row) for row in chances) else [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        page(context, browser_data(shown, list(held)), list(held.values())), encoding="utf-8"
    )
    print(f"report: {options.out}: {', '.join(labels)}")


def _labelled(text: str) -> tuple[str, Path]:
    """Label and folder. Either may hold "=", so the folder is the longest end of the text that is
    one.
    """
    parts = text.split("=")
    ends = [("=".join(parts[:place]), Path("=".join(parts[place:]))) for place in range(len(parts))]
    label, path = next((end for end in ends if end[1].is_dir()), ends[-1])
    return label or path.resolve().name, path


def _joined(experiments: Sequence[Experiment]) -> Experiment:
    """All runs as one, whose systems are called ``label/system``."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for each in experiments:
        for name, systems in each.scores.items():
            scores.setdefault(name, {}).update(
                {f"{each.label}/{system}": own for system, own in systems.items()}
            )
    groups, speakers = (
        [
            {**row, "system": f"{each.label}/{row['system']}"}
            for each in experiments
            for row in rows(each)
        ]
        for rows in (lambda each: each.groups, lambda each: each.speakers)
    )
    return Experiment("", scores, [], groups, speakers)


def significance(experiments: Sequence[Experiment], name: str, system: str) -> list[str]:
    """For each run after the first: the interval of its difference in points, and the p-value of
    matched pairs; empty for non-speech and where the two did not hear the same utterances.
    """
    first = _errors(experiments[0], name, system)
    return [_difference(first, _errors(each, name, system)) for each in experiments[1:]]


def _errors(experiment: Experiment, name: str, system: str) -> dict[str, tuple[int, int, str]]:
    """Errors, words of the reference and speaker of each utterance of a set of speech that the
    system wrote, by id; none where the run has no rate of it.
    """
    if system not in experiment.scores.get(name, {}):
        return {}
    heard = (
        each
        for each in experiment.utterances
        if each.set == name and each.speech and system in each.said
    )
    return {each.id: (each.said[system].errors, each.words, each.speaker) for each in heard}


def _difference(
    first: dict[str, tuple[int, int, str]], second: dict[str, tuple[int, int, str]]
) -> str:
    ids = sorted(first)
    words = np.array([first[each][1] for each in ids], dtype=np.int64)
    if first.keys() != second.keys() or not words.sum():
        return ""
    one, other = (
        np.array([side[each][0] for each in ids], dtype=np.int64) for side in (first, second)
    )
    found = tested(one, other, words, [first[each][2] for each in ids], RESAMPLES)
    chance = "p < 0.001" if found.matched_p < 0.001 else f"p = {found.matched_p:.3f}"
    return f"{100 * found.low:+.2f} to {100 * found.high:+.2f}, {chance}"
