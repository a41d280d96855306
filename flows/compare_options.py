"""The command line of ``flows.compare``, which needs neither Prefect nor DVC: help and completion
start in milliseconds.
"""

from __future__ import annotations

import argparse

from components.config.params import NAMES
from components.plan import recipe as recipes

PROG = "python -m flows.compare"


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Runs experiments and prints their results side by side.",
    )
    parser.add_argument(
        "recipe", nargs="?", default="", help=f"one of: {', '.join(recipes.list_names())}"
    )
    parser.add_argument("--only", metavar="CELL", default="", help="just this cell of the recipe")
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="experiments at once (default: one a GPU, else one)",
    )
    parser.add_argument("--again", action="store_true", help="run even what is done already")
    parser.add_argument("--dry-run", action="store_true", help="print what would be queued")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="queue even if the plan says that a disk or the memory is too small",
    )
    for name in NAMES:
        parser.add_argument(
            f"--{name}",
            nargs="+",
            metavar="NAME",
            help=f"a cell for each of these names of catalogue/{name}.yaml",
        )
    return parser
