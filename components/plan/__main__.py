"""``python -m components.plan [-S key=value …] [--gpu NAME …]``: what a run will cost, before it
runs.

Nothing is downloaded but a ``config.json`` that the catalogue does not describe, and no weights are
loaded. The exit code is 2 where a disk or the memory is too small: ``python -m components.plan -S
llm=phi-2 && dvc exp run -S llm=phi-2``. With ``--gpu`` memory is compared with those cards, else
with what this machine has. Cost: 1 s where the networks were planned before, else about 4 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from components.config import catalogue
from components.config.errors import InputError, LibrettoError
from components.config.params import read_overridden_params
from components.plan.report import print_plan
from components.plan.run import check_plan, plan_run
from components.runtime.stage import check_names

PROG = "python -m components.plan"


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Values by key of ``key=value`` in the grammar of ``dvc exp run -S``; raises InputError for
    what it does not accept, and for several values of a key.
    """
    if not assignments:  # Hydra takes 0.2 s to import
        return {}
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    values: dict[str, Any] = {}
    for assignment in assignments:
        try:
            override = OverridesParser.create().parse_override(assignment)
        except HydraException as error:
            raise InputError(
                f"'{assignment}' is no key=value: {str(error).splitlines()[0]}",
                subject=assignment,
                hint="Write it as dvc exp run -S takes it: train.seed=2.",
            ) from None
        is_plain = not (override.is_sweep_override() or override.is_add() or override.is_delete())
        if not is_plain or ":" in override.key_or_group:
            raise InputError(
                f"'{assignment}': a plan takes one value of one key of params.yaml.",
                subject=assignment,
                hint="Plan the cells of a grid one by one.",
            )
        values[override.key_or_group] = override.value()
    return values


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = argparse.ArgumentParser(prog=prog, description="What a run will cost, before it runs.")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as dvc exp run takes it",
    )
    parser.add_argument(
        "--gpu",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of catalogue/gpu.yaml",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Plans from the command line; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    try:
        params = read_overridden_params(parse_assignments(options.set_param), "overrides")
        check_names(params)
        plan = plan_run(params, options.gpu)
        print_plan(plan)
        check_plan(plan)
        for kind in ("encoder", "llm"):  # the stages check it too, later
            catalogue.check_pinned(kind, getattr(params, kind))
    except LibrettoError as error:
        print(f"plan: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
