"""``python -m components.encoder --encoder NAME``."""

from components.config.stage import run_stage
from components.encoder.build import work

if __name__ == "__main__":
    run_stage("encoder", work, names=("encoder",))
