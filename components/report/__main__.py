"""``python -m components.report`` runs the stage; ``python -m components.report compare
[LABEL=]FOLDER …`` compares finished runs.
"""

import sys

from components.config.errors import LibrettoError
from components.config.params import NAMES
from components.runtime.file_systems import translate_os_errors
from components.runtime.logs import configure_logging
from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.report import build

    build.work(stage)


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        from components.report.comparison import write_comparison

        configure_logging()
        try:
            with translate_os_errors():
                write_comparison(sys.argv[2:])
        except LibrettoError as error:
            print(f"report: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
    else:
        run_stage("report", work, names=NAMES)
