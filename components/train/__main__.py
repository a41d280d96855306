"""``python -m components.train --encoder NAME --projector NAME --llm NAME``."""

from components.runtime.stage import run_stage
from components.train.build import work

if __name__ == "__main__":
    run_stage("train", work, names=("encoder", "projector", "llm"))
