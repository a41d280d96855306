"""``python -m components.features --encoder NAME --role ROLE``."""

from components.features.extract import work
from components.runtime.stage import run_stage

if __name__ == "__main__":
    run_stage("features", work, names=("encoder",), roles=True)
