"""``python -m components.clean [--limit-gb N | --verify]``: removes the units of the work cache
that were used longest ago, and nobody uses now, until it is no larger than a limit; or what is
damaged of all that was computed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from components.config.errors import LibrettoError
from components.runtime.dvc_cache import read_dvc_cache
from components.runtime.file_systems import translate_os_errors
from components.runtime.logs import configure_logging
from components.runtime.settings import work_bytes, work_root
from components.runtime.unit_cache import PARTIAL_AGE_S, trim
from components.runtime.verification import (
    Inodes,
    verify_objects,
    verify_outputs,
    verify_units,
)

logger = logging.getLogger("components.clean")  # __name__ is __main__ for python -m
PROG = "python -m components.clean"
DAMAGED = 1  # exit code where something was damaged


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of this command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Removes the oldest finished units of the work cache, or what is damaged.",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--limit-gb",
        type=float,
        metavar="N",
        help="size in 10^9 bytes to trim to (default: LIBRETTO_WORK_GB)",
    )
    choice.add_argument(
        "--verify",
        action="store_true",
        help="compare the work cache, and DVC's cache and the outputs of this workspace, with "
        "their digests, and remove what is damaged; 'dvc repro' makes it again. "
        "Exit code 1 where something was",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Trims or verifies, and logs what was removed; returns the exit code."""
    configure_logging()
    options = build_parser(prog).parse_args(arguments)
    try:
        with translate_os_errors():
            if options.verify:
                return _verify()
            limit = work_bytes() if options.limit_gb is None else int(options.limit_gb * 1e9)
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


def _verify() -> int:
    inodes: Inodes = {}
    counts = [verify_units(inodes)]
    if Path(".dvc").is_dir():
        counts += [verify_objects(read_dvc_cache()[0]), verify_outputs(Path(), inodes)]
    else:
        logger.info("%s is no workspace of DVC: the work cache alone is verified", Path.cwd())
    for path in (path for count in counts for path in count.damaged):
        logger.info("damaged: %s", path)
    for count in counts:
        logger.info("%s", count)
    if not any(count.damaged for count in counts):
        return 0
    logger.info("'dvc repro' makes again what a workspace needs of it.")
    return DAMAGED


if __name__ == "__main__":
    sys.exit(main())
