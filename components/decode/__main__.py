"""``python -m components.decode``."""

from components.config.stage import run_stage
from components.decode.run import work

if __name__ == "__main__":
    run_stage("decode", work)
