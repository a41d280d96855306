"""``python -m components.score`` runs the stage; ``python -m components.score table`` prints its
figures.
"""

import sys

from components.config.errors import LibrettoError
from components.runtime.stage import run_stage
from components.score.build import work
from components.score.table import print_tables

if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        try:
            print_tables()
        except LibrettoError as error:
            sys.exit(f"score: {error}")
    else:
        run_stage("score", work, names=("corpus", "llm"))
