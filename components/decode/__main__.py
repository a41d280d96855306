"""``python -m components.decode``."""

from components.decode.run import work
from components.runtime.stage import run_stage

if __name__ == "__main__":
    run_stage("decode", work)
