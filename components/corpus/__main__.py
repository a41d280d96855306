"""``python -m components.corpus --role ROLE``: the stage, see ``components.corpus.build``.

``python -m components.corpus scan [--corpus NAME]`` writes what every source of a corpus depends on
to ``data/sources``, which is kept in git (``components.corpus.scan``).

``python -m components.corpus fetch [--corpus NAME] [--role ROLE]`` downloads what is missing of a
corpus into its data roots (``components.corpus.fetch.installation``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.config import catalogue
from components.config.errors import LibrettoError
from components.config.params import read_params
from components.runtime.file_systems import translate_os_errors
from components.runtime.logs import configure_logging
from components.runtime.stage import Stage, run_stage

DESCRIPTIONS = {
    "scan": "Records which files each source of a corpus consists of.",
    "fetch": "Downloads what is missing of a corpus into its data roots.",
}


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.corpus import build

    build.work(stage)


def build_parser(command: str, *, prog: str = "") -> argparse.ArgumentParser:
    """The parser of the command ``scan`` or ``fetch``."""
    parser = argparse.ArgumentParser(
        prog=prog or f"python -m components.corpus {command}", description=DESCRIPTIONS[command]
    )
    parser.add_argument(
        "--corpus",
        metavar="NAME",
        help="name in catalogue/corpus.yaml (default: the one of params.yaml)",
    )
    if command == "fetch":
        parser.add_argument(
            "--role", choices=catalogue.ROLES, help="fetch for the sources of this role alone"
        )
    return parser


def main(arguments: Sequence[str], prog: str = "") -> int:
    """Runs the stage, or the command that the first argument names; returns the exit code."""
    if arguments[:1] not in (["scan"], ["fetch"]):
        run_stage("corpus", work, names=("corpus",), roles=True)
        return 0
    command = arguments[0]
    options = build_parser(command, prog=prog).parse_args(arguments[1:])
    configure_logging()
    try:
        with translate_os_errors():
            corpus = options.corpus or read_params().corpus
            if command == "scan":
                from components.corpus.scan import write_scans

                write_scans(corpus)
            else:
                from components.corpus.fetch.installation import fetch_corpus

                fetch_corpus(corpus, options.role)
    except LibrettoError as error:
        print(f"corpus {command}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
