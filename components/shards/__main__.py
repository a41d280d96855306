"""``python -m components.shards --corpus NAME --role ROLE``."""

from components.runtime.stage import run_stage
from components.shards.build import work

if __name__ == "__main__":
    run_stage("shards", work, names=("corpus",), roles=True)
