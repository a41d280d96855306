"""``libretto score``: the table of scores of the last run, from ``metrics/score.json``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``libretto score``."""
    return argparse.ArgumentParser(
        prog="libretto score", description="Prints the scores of the last run of this workspace."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code. Raises InputError if nothing was scored yet."""
    build_parser().parse_args(arguments)
    from libretto.workspace import check_workspace

    check_workspace("score")
    from components.score.table import print_tables

    print_tables()
    return 0
