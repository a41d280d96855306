"""``python -m components.score`` runs the stage; ``python -m components.score table`` prints its
figures.
"""

import sys

from components.config.errors import LibrettoError
from components.runtime.file_systems import translate_os_errors
from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.score import build

    build.work(stage)


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        from components.score.table import print_tables

        try:
            with translate_os_errors():
                print_tables()
        except LibrettoError as error:
            print(f"score: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
    else:
        run_stage("score", work, names=("corpus", "llm"))
