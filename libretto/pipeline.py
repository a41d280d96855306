"""``libretto run``: the plan, ``dvc repro`` and the table of results, as ``make run`` does them.

In: the workspace. Out: what ``dvc repro`` writes, and an exit code: that of the plan, or that of
the error which a failed stage recorded (DVC itself returns 255 for every failure).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle OpenMP threads that spin slow down the other workers
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
}


def build_parser(prog: str = "libretto run") -> argparse.ArgumentParser:
    """The parser of ``libretto run``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Estimates the run, runs 'dvc repro' and prints the table of results.",
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
    if not options.no_plan:
        from components.plan.__main__ import main as plan

        if code := plan([]):
            return code
    sys.stdout.flush()
    start_s = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *options.targets],
        env=build_environment(),
        check=False,
    )
    if done.returncode:
        return recorded_exit_code(start_s) or done.returncode
    from components.score.build import METRICS
    from components.score.table import print_tables

    if METRICS.is_file():  # some targets end before the scores
        print_tables()
    return 0


def build_environment() -> dict[str, str]:
    """This process's environment for DVC: ``python`` in ``dvc.yaml`` is the interpreter that runs
    this.
    """
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}


def recorded_exit_code(start_s: float) -> int:
    """The exit code of the latest error that a stage of this workspace recorded since ``start_s``
    (seconds since the epoch); 0 if there is none.
    """
    from components.config.errors import BY_KIND
    from components.runtime.stage import error_path

    records = [
        path
        for path in error_path("any").parents[1].glob("*/error.json")
        if path.stat().st_mtime >= start_s - 1
    ]
    if not records:
        return 0
    latest = max(records, key=lambda path: path.stat().st_mtime)
    return BY_KIND[json.loads(latest.read_text(encoding="utf-8"))["kind"]].exit_code
