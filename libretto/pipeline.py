"""``libretto run``: the plan, ``dvc repro`` and the table of results, as ``make run`` does them.

In: the workspace. Out: what ``dvc repro`` writes, and an exit code: that of the plan, or that of
the error which a failed stage recorded (DVC itself returns 255 for every failure). With ``-S
KEY=VALUE`` it runs an experiment in a copy of the workspace instead, which stays as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from libretto.environment import ENVIRONMENT, call_dvc
from libretto.workspace import check_checkout, check_repository

# DVC removes the outputs of a stage, metrics too, before it runs again.
WAY_BACK = (
    "run: not finished. The same command goes on from the last finished unit or checkpoint. What a "
    "stage had written in an earlier run comes back with 'libretto restore', once its inputs are "
    "as they were."
)


def build_parser(prog: str = "libretto run") -> argparse.ArgumentParser:
    """The parser of ``libretto run``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Estimates the run, runs 'dvc repro' and prints the table of results. With -S "
        "it runs an experiment in a copy: the workspace and its model stay as they are.",
    )
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of the experiment, as dvc exp run takes it: llm=phi-2",
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="stages of dvc.yaml (default: all)"
    )
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="run even if the plan finds too little disk or memory",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "libretto run") -> int:
    """Runs the pipeline of the current workspace; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    start_s = time.time()
    check_repository()
    if options.set_param:
        check_assignments(options.set_param)
    if not options.no_plan:
        from components.plan.__main__ import main as plan

        if code := plan([part for item in options.set_param for part in ("-S", item)]):
            return code
    if options.set_param:
        from flows.trial import run_experiment

        code = run_experiment(options.set_param, options.targets)
    else:
        code = call_dvc("repro", *options.targets)
    if code:
        if not options.set_param:
            print(WAY_BACK, file=sys.stderr)
        return recorded_exit_code(start_s, is_copy=bool(options.set_param)) or code
    if not options.set_param:
        print_results()
    return 0


def check_assignments(assignments: Sequence[str]) -> None:
    """Raises InputError for a parameter or a name that does not exist, before any work."""
    from components.config.params import read_overridden_params
    from components.plan.__main__ import parse_assignments
    from components.runtime.stage import check_names

    check_checkout("run -S")
    check_names(read_overridden_params(parse_assignments(assignments), "overrides"))


def print_results() -> None:
    """Prints the result table of the workspace; nothing where some targets end before the
    scores.
    """
    from components.score.build import METRICS
    from components.score.table import print_tables

    if METRICS.is_file():
        print_tables()


def recorded_exit_code(start_s: float, is_copy: bool = False) -> int:
    """The exit code of the latest error that a stage of this workspace recorded since ``start_s``
    (seconds since the epoch), or of any workspace where it ran in a copy; 0 if there is none.
    """
    from components.config.errors import BY_KIND, LibrettoError
    from components.runtime.json_files import read_json
    from components.runtime.stage import error_path

    folder = error_path("any").parents[1]
    paths = folder.parent.glob("*/*/error.json") if is_copy else folder.glob("*/error.json")
    records = [path for path in paths if path.stat().st_mtime >= start_s - 1]
    if not records:
        return 0
    latest = max(records, key=lambda path: path.stat().st_mtime)
    kind = read_json(latest, keys={"kind": str})["kind"]
    return BY_KIND.get(kind, LibrettoError).exit_code
