"""``python -m components.features --encoder NAME --role ROLE``."""

from components.config.stage import run_stage
from components.features.extract import work

if __name__ == "__main__":
    run_stage("features", work, names=("encoder",), roles=True)
