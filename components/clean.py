"""``python -m components.clean [--limit-gb N]``: removes the oldest finished units of the work
cache until it is no larger than a limit.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from components.config.errors import LibrettoError
from components.runtime.file_systems import translate_os_errors
from components.runtime.logs import configure_logging
from components.runtime.settings import work_root
from components.runtime.unit_cache import trim

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
        with translate_os_errors():
            num_dropped, size = trim(None if limit_gb is None else int(limit_gb * 1e9))
    except LibrettoError as error:
        sys.stderr.write(f"clean: {error}\n")
        return error.exit_code
    logger.info("%s: %d units dropped, %.2f GB left", work_root(), num_dropped, size / 1e9)
    return 0


if __name__ == "__main__":
    sys.exit(main())
