"""``python -m components.corpus --role ROLE``: the stage, see ``components.corpus.build``.

``python -m components.corpus scan [--corpus NAME]`` writes what every source of a corpus depends on
to ``data/sources``, which is kept in git (``components.corpus.scan``).

``python -m components.corpus fetch [--corpus NAME] [--role ROLE]`` downloads what is missing of a
corpus into its data roots (``components.corpus.fetch.installation``).
"""

from __future__ import annotations

import argparse
import sys

from components.config import catalogue
from components.config.errors import LibrettoError
from components.config.params import read_params
from components.corpus.build import work
from components.corpus.fetch.installation import fetch_corpus
from components.corpus.scan import write_scans
from components.runtime.logs import configure_logging
from components.runtime.stage import run_stage


def main(arguments: list[str]) -> None:
    """Runs the stage, or the command that the first argument names; ends the process with the exit
    code of an error.
    """
    if arguments[:1] not in (["scan"], ["fetch"]):
        run_stage("corpus", work, names=("corpus",), roles=True)
        return
    command = arguments[0]
    parser = argparse.ArgumentParser(prog=f"python -m components.corpus {command}")
    parser.add_argument(
        "--corpus", help="name in catalogue/corpus.yaml (default: the one of params.yaml)"
    )
    if command == "fetch":
        parser.add_argument(
            "--role", choices=catalogue.ROLES, help="fetch for the sources of this role alone"
        )
    options = parser.parse_args(arguments[1:])
    configure_logging()
    try:
        corpus = options.corpus or read_params().corpus
        if command == "scan":
            write_scans(corpus)
        else:
            fetch_corpus(corpus, options.role)
    except LibrettoError as error:
        print(f"corpus {command}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
