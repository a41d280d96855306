"""``python -m components.clean [--limit-gb N]``: removes the units of the work cache that were used
longest ago, and nobody uses now, until it is no larger than a limit.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from components.config.errors import LibrettoError
from components.runtime.logs import configure_logging
from components.runtime.settings import work_bytes, work_root
from components.runtime.unit_cache import PARTIAL_AGE_S, trim

logger = logging.getLogger("components.clean")  # __name__ is __main__ for python -m
PROG = "python -m components.clean"


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Removes the oldest finished units of the work cache.",
    )
    parser.add_argument(
        "--limit-gb",
        type=float,
        metavar="N",
        help="size in 10^9 bytes to trim to (default: LIBRETTO_WORK_GB)",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Trims the work cache and logs what was removed; returns the exit code."""
    configure_logging()
    limit_gb = build_parser(prog).parse_args(arguments).limit_gb
    try:
        limit = work_bytes() if limit_gb is None else int(limit_gb * 1e9)
        num_dropped, size = trim(limit)
    except LibrettoError as error:
        sys.stderr.write(f"clean: {error}\n")
        return error.exit_code
    logger.info("%s: %d units dropped, %.2f GB left", work_root(), num_dropped, size / 1e9)
    if size > limit:
        logger.info(
            "What is left is in use, was used within the last hour, or is what a run that was "
            "killed within the last %d days left.",
            PARTIAL_AGE_S // 86400,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
