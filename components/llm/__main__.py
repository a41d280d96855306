"""``python -m components.llm --llm NAME``."""

from components.config.stage import run_stage
from components.llm.build import work

if __name__ == "__main__":
    run_stage("llm", work, names=("llm",))
