"""``python -m components.llm --llm NAME``; ``pin NAME`` prints the lines that pin a catalogue entry
of a hub.
"""

import sys

from components.llm.build import work
from components.runtime.stage import run_stage

if __name__ == "__main__":
    if sys.argv[1:2] == ["pin"]:
        from components.model.folders.pins import pin

        pin("llm", sys.argv[2:])
    else:
        run_stage("llm", work, names=("llm",))
