"""The experiments of the last commit in one narrow table: what they change, and their error rates
beside those of the workspace.

In: ``metrics/score.json`` of the workspace and of each experiment, and their parameters, from Git.
Out: text, a row for each. Cost: 30 ms an experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from components.config.errors import InputError, nearest
from components.config.params import PARAMS
from components.runtime.tables import format_table
from components.score.figures import read_scores
from flows.command import run
from flows.dag import flatten
from flows.experiments import list_results, read_committed
from flows.results import SCORE, Scores, format_percent

MAX_CHANGES = 3  # that a row names
NONE = "-"  # no such figure


def format_overview(names: Sequence[str] = (), system: str = "") -> str:
    """The table: the workspace, then the experiments ``names`` (default: all of the last commit).

    A cell has the word error rate of each system in percent, or the share of clips with text, in
    the order that the line below the table gives; of one ``system`` alone where it is named. Raises
    InputError for a name of neither.
    """
    commits = list_results()
    for name in names:
        if name not in commits:
            raise InputError(
                f"The last commit has no experiment '{name}'.",
                subject=name,
                hint=nearest(name, commits),
            )
    scores: dict[str, Scores] = {}
    if SCORE.is_file():
        scores["workspace"] = read_scores(SCORE)
    for name in names or commits:
        scores[name] = read_committed(commits[name], SCORE) or {}
    systems = list(dict.fromkeys(key for sets in scores.values() for key in _list_systems(sets)))
    if system and system not in systems:
        raise InputError(
            f"No experiment has the system '{system}'.",
            subject=system,
            hint=nearest(system, systems),
        )
    chosen = [system] if system else systems
    rows = [
        {"experiment": name, "changes": _list_changes(commits.get(name, ""))}
        | {test_set: _format_cell(figures, chosen) for test_set, figures in sets.items()}
        for name, sets in scores.items()
    ]
    legend = "WER %, on non-speech clips with text %"
    return f"{format_table(rows)}\n{legend}: {' / '.join(chosen)}"


def _list_systems(scores: Scores) -> list[str]:
    return [system for figures in scores.values() for system in figures]


def _format_cell(figures: Mapping[str, Mapping[str, Any]], systems: Sequence[str]) -> str:
    """The rate of each system in percent, ``NONE`` where it has none."""
    rates = [figures.get(system, {}) for system in systems]
    fractions = [item.get("wer", item.get("text_rate")) for item in rates]
    return " / ".join(NONE if rate is None else format_percent(rate) for rate in fractions)


def _list_changes(commit: str) -> str:
    """The parameters in which a commit differs from the last one of the branch, the first ones by
    name; empty for none.
    """
    if not commit:
        return ""
    before, now = (
        dict(flatten("", yaml.safe_load(run("git", "show", f"{revision}:./{PARAMS}"))))
        for revision in ("HEAD", commit)
    )
    changed = [
        f"{name.removeprefix('.')}={now.get(name, NONE)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, NONE) != now.get(name, NONE)
    ]
    more = f" +{len(changed) - MAX_CHANGES}" if len(changed) > MAX_CHANGES else ""
    return " ".join(changed[:MAX_CHANGES]) + more
