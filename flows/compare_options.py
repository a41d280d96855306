"""The command line of ``flows.compare``, which needs neither Prefect nor DVC: help and completion
start in milliseconds, and ``--show`` does not wait for Prefect.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from components.config.errors import LibrettoError
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
    parser.add_argument(
        "--show",
        action="store_true",
        help="run nothing: print all experiments of the last commit beside the workspace",
    )
    parser.add_argument(
        "--system", default="", metavar="NAME", help="with --show: the rates of this system alone"
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


def main(
    arguments: Sequence[str] | None = None,
    prog: str = PROG,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> int:
    """Compares, by ``run`` or else by ``flows.compare``, or shows the experiments that there are;
    returns the exit code.
    """
    parser = build_parser(prog)
    options = parser.parse_args(arguments)
    has_cells = options.recipe or any(getattr(options, name) for name in NAMES)
    if not has_cells and not options.show:
        parser.error("name a recipe, names to compare such as --llm A B, or --show")
    if options.show and has_cells:
        parser.error("--show runs nothing: leave out the recipe and the names")
    try:
        if options.show:
            from flows.overview import format_overview

            print(format_overview(system=options.system))
            return 0
        # By its name: that module imports this one.
        run = run or import_module("flows.compare").run_comparison
        return run(options)
    except LibrettoError as error:
        print(f"compare: {error}", file=sys.stderr)
        return error.exit_code
