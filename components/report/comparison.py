"""``python -m components.report compare [LABEL=]FOLDER [LABEL=]FOLDER … [--out FILE]``: several finished runs on one page.

In: folders of runs (workspaces, or folders with ``score.json`` and ``utterances.parquet``); a label is by default the folder's name. Out:
``runs/report/compare.html``, ignored by Git and DVC: word error rates side by side with their differences to the first run, whether
these are beyond chance where ``components.score.significance`` is there to say so, and the error browser over all systems of all runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.config.params import read_params
from components.report import tables
from components.report.browser import browsed
from components.report.browser import payload as browser_data
from components.report.build import MEGABYTE, SHARDS, contents_of
from components.report.clips import clips
from components.report.experiment import Experiment, read_experiment
from components.report.page import page


def compare(arguments: Sequence[str]) -> None:
    """Writes the page; raises InputError where there are fewer than two runs, two have one label, or they can't be compared."""
    parser = argparse.ArgumentParser(prog="python -m components.report compare")
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]FOLDER", help="a finished run; differences are to the first")
    parser.add_argument("--out", type=Path, default=Path("runs/report/compare.html"), help="the page to write")
    options = parser.parse_args(arguments)
    experiments = [read_experiment(folder, label) for label, folder in map(_labelled, options.runs)]
    labels = [each.label for each in experiments]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"Two runs or more are compared, each under a label of its own (given: {', '.join(labels)}).", unit="runs",
                         way_out="Write LABEL=FOLDER.")  # fmt: skip
    settings = read_params().report
    shown = browsed(experiments, settings.utterances)
    shards = _labelled(options.runs[0])[1] / SHARDS
    held = clips(shown.utterances, shards, settings.clips, int(settings.megabytes * MEGABYTE)) if shards.is_dir() else {}
    context = {
        **contents_of(_joined(experiments), shown, held, {}),
        "title": "Libretto comparison: " + ", ".join(labels),
        "names": {},
        "training": [],
        "artifacts": [],
        "timings": [],
        "runs": labels,
        "comparison": [row + significance(experiments, *row[:2]) for row in tables.side_by_side(experiments)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(context, browser_data(shown, list(held)), list(held.values())), encoding="utf-8")
    print(f"report: {options.out}: {', '.join(labels)}")


def _labelled(text: str) -> tuple[str, Path]:
    label, equals, folder = text.rpartition("=")
    path = Path(folder)
    return (label if equals else path.resolve().name), path


def _joined(experiments: Sequence[Experiment]) -> Experiment:
    """All runs as one, whose systems are called ``label/system``."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for each in experiments:
        for name, systems in each.scores.items():
            scores.setdefault(name, {}).update({f"{each.label}/{system}": own for system, own in systems.items()})
    groups = [{**row, "system": f"{each.label}/{row['system']}"} for each in experiments for row in each.groups]
    return Experiment("", scores, [], groups)


def significance(experiments: Sequence[Experiment], name: str, system: str) -> list[str]:
    """A cell for each run after the first; empty until ``components.score.significance`` is there."""
    return ["" for _ in experiments[1:]]
