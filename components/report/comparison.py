"""``python -m components.report compare [LABEL=]FOLDER [LABEL=]FOLDER … [--out FILE]``: several
finished runs on one page.

In: folders of runs (workspaces, or folders with ``score.json`` and ``utterances.parquet``). The
default label is the folder's name. Out: ``runs/report/compare.html``, ignored by Git and DVC, with
the word error rates of the runs, their differences to the first run, the significance of these
(``components.score.significance``), and the error browser over all systems of all runs.

Cost: that of a report for each run, and about a second a set and system for the tests. Audio is
that of the first run: utterances that it does not have are without audio.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.config.errors import InputError
from components.config.params import read_params
from components.report import tables
from components.report.browser import RankedUtterances, browser_data, rank_utterances
from components.report.build import MEGABYTE, SHARDS, page_context
from components.report.clips import read_clips
from components.report.experiment import Experiment, UtteranceKey, read_experiment
from components.report.page import render_page
from components.score import significance

logger = logging.getLogger(__name__)
RESAMPLES = 1000  # the ends of an interval then vary by a few percent of its width with the seed
UtteranceErrors = dict[str, tuple[int, int, str]]  # by id: errors, words of the reference, speaker


def write_comparison(arguments: Sequence[str]) -> None:
    """Writes the page for the arguments of the command line.

    Raises InputError if there are fewer than two runs, if two have the same label, or if they
    cannot be compared.
    """
    options = _parse(arguments)
    runs = [_split_label(text) for text in options.runs]
    experiments = [read_experiment(folder, label) for label, folder in runs]
    labels = [experiment.label for experiment in experiments]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(
            f"A comparison needs at least two runs with different labels, not {', '.join(labels)}.",
            subject="runs",
            hint="Write LABEL=FOLDER.",
        )
    settings = read_params().report
    ranked = rank_utterances(experiments, settings.utterances)
    max_bytes = int(settings.megabytes * MEGABYTE)
    clips = _clips_of(experiments[0], ranked, runs[0][1] / SHARDS, settings.clips, max_bytes)
    rows = tables.compare_rates(experiments)
    differences = [describe_differences(experiments, *row[:2]) for row in rows]
    context = {
        **page_context(_merge(experiments), ranked, len(clips), {}),
        "title": "Libretto comparison: " + ", ".join(labels),
        "names": {},
        "training": [],
        "artifacts": [],
        "timings": [],
        "runs": labels,
        "comparison": rows,
        "differences": differences if any(any(row) for row in differences) else [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    page = render_page(context, browser_data(ranked, list(clips)), list(clips.values()))
    options.out.write_text(page, encoding="utf-8")
    logger.info("report: %s: %s", options.out, ", ".join(labels))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
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
    return parser.parse_args(arguments)


def _split_label(text: str) -> tuple[str, Path]:
    """Label and folder of ``[LABEL=]FOLDER``.

    Both may contain "=", so the folder is the longest end of the text that is a folder.
    """
    parts = text.split("=")
    splits = [
        ("=".join(parts[:index]), Path("=".join(parts[index:]))) for index in range(len(parts))
    ]
    label, path = next((split for split in splits if split[1].is_dir()), splits[-1])
    return label or path.resolve().name, path


def _clips_of(
    first: Experiment, ranked: RankedUtterances, shards: Path, max_clips: int, max_bytes: int
) -> dict[UtteranceKey, bytes]:
    """Clips of the utterances of the first run; its shards have no others."""
    if not shards.is_dir():
        return {}
    keys = {utterance.key for utterance in first.utterances}
    utterances = [utterance for utterance in ranked.utterances if utterance.key in keys]
    return read_clips(utterances, shards, max_clips, max_bytes)


def _merge(experiments: Sequence[Experiment]) -> Experiment:
    """All runs as one, whose systems are called ``label/system``; without utterances."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    groups, speakers = list[dict[str, str]](), list[dict[str, str]]()
    for experiment in experiments:
        label = experiment.label
        for name, systems in experiment.scores.items():
            scores.setdefault(name, {}).update(
                {f"{label}/{system}": figures for system, figures in systems.items()}
            )
        groups += [{**row, "system": f"{label}/{row['system']}"} for row in experiment.groups]
        speakers += [{**row, "system": f"{label}/{row['system']}"} for row in experiment.speakers]
    return Experiment("", scores, [], groups, speakers)


def describe_differences(experiments: Sequence[Experiment], name: str, system: str) -> list[str]:
    """For each run after the first: the interval of its difference in percentage points, and the
    p-value of matched pairs.

    Empty for non-speech, and if the two runs do not have the same utterances.
    """
    first = _errors_by_id(experiments[0], name, system)
    return [
        _describe_difference(first, _errors_by_id(experiment, name, system))
        for experiment in experiments[1:]
    ]


def _errors_by_id(experiment: Experiment, name: str, system: str) -> UtteranceErrors:
    """The utterances of a set of speech that have a hypothesis of the system; none if the run has
    no rate of it.
    """
    if system not in experiment.scores.get(name, {}):
        return {}
    return {
        utterance.id: (
            utterance.results[system].errors.errors,
            utterance.words,
            utterance.speaker,
        )
        for utterance in experiment.utterances
        if utterance.set == name and utterance.is_speech and system in utterance.results
    }


def _describe_difference(first: UtteranceErrors, second: UtteranceErrors) -> str:
    ids = sorted(first)
    words = np.array([first[name][1] for name in ids], dtype=np.int64)
    if first.keys() != second.keys() or not words.sum():
        return ""
    first_errors, second_errors = (
        np.array([side[name][0] for name in ids], dtype=np.int64) for side in (first, second)
    )
    speakers = [first[name][2] for name in ids]
    result = significance.compare(first_errors, second_errors, words, speakers, RESAMPLES)
    p_value = "p < 0.001" if result.matched_p < 0.001 else f"p = {result.matched_p:.3f}"
    return f"{100 * result.low:+.2f} to {100 * result.high:+.2f}, {p_value}"
