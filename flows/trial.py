"""One experiment in a copy of the workspace, for ``libretto run -S KEY=VALUE``.

In: the workspace with its uncommitted changes, and values of parameters. Out: a DVC experiment
(``dvc exp apply NAME`` takes it over) and its row beside that of the workspace. The workspace stays
as it is, whatever ends the experiment; the copy shares DVC's cache and the work cache. Cost: that
of the stages that depend on the values, and about 10 s of DVC.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from flows.command import DVC, run
from flows.overview import format_overview
from flows.untracked import describe_untracked
from libretto.environment import call_dvc


def name_experiment(assignments: Sequence[str], names: Sequence[str]) -> str:
    """A name that says what is assigned, other than each of ``names``: ``llm-phi-2``, then
    ``llm-phi-2-2``. DVC accepts letters, digits, hyphens and underscores.
    """
    text = "-".join(assignments)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "experiment"
    name, number = stem, 2
    while name in names:
        name, number = f"{stem}-{number}", number + 1
    return name


def run_experiment(assignments: Sequence[str], targets: Sequence[str]) -> int:
    """Runs ``targets`` (default: all stages) with these values in a copy; returns DVC's exit
    code.
    """
    if untracked := describe_untracked():
        print(untracked, file=sys.stderr)
    names = run(*DVC, "exp", "list", "--name-only").split()
    name = name_experiment(assignments, names)
    options = [part for assignment in assignments for part in ("-S", assignment)]
    code = call_dvc("exp", "run", "--temp", "--name", name, *options, *targets)
    if code:
        return code
    print(format_overview([name]))
    print(f"'dvc exp apply {name}' takes it over; 'libretto compare --show' lists all.")
    return 0
