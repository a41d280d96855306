"""``python -m components.plan [-S key=value …] [--gpu NAME …]``: what a run will cost, before it
costs.

Nothing is downloaded but a ``config.json`` that the catalogue does not describe, and no weights are
loaded. The exit code is 2 where a disk or the memory is too small: ``python -m components.plan -S
llm=phi-2 && dvc exp run -S llm=phi-2``. With ``--gpu`` memory is compared with those cards, else
with what this machine has. Cost: about 6 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from components.config import catalogue
from components.config.errors import InputError, LibrettoError
from components.config.params import overridden
from components.plan.report import show
from components.plan.run import Plan, check, plan_of
from components.runtime.stage import check_names


def parsed(assignments: Sequence[str]) -> dict[str, Any]:
    """``key=value`` in the grammar of ``dvc exp run -S`` as values by key; raises InputError for
    what it does not take.
    """
    found: dict[str, Any] = {}
    for each in assignments:
        try:
            override = OverridesParser.create().parse_override(each)
        except HydraException as error:
            raise InputError(
                f"'{each}' is no key=value: {str(error).splitlines()[0]}", subject=each
            ) from None
        if (
            override.is_sweep_override()
            or override.is_add()
            or override.is_delete()
            or ":" in override.key_or_group
        ):
            raise InputError(
                f"'{each}': one value of one key of params.yaml is planned.",
                subject=each,
                hint="Plan the cells of a grid one by one.",
            )
        found[override.key_or_group] = override.value()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m components.plan", description="What a run will cost, before it costs."
    )
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
        help=f"of {', '.join(catalogue.names('gpu'))}",
    )
    options = parser.parse_args(arguments)
    try:
        params = overridden(parsed(options.set_param), "overrides")
        check_names(params)
        plan: Plan = plan_of(params, options.gpu)
        show(plan)
        check(plan)
        for kind in ("encoder", "llm"):  # where every stage would stop
            catalogue.check_pinned(kind, getattr(params, kind))
    except LibrettoError as error:
        print(f"plan: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
