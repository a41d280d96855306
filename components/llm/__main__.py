"""``python -m components.llm --llm NAME``; ``pin NAME`` prints the lines that pin a catalogue entry
of a hub.
"""

import sys

from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.llm import build

    build.work(stage)


if __name__ == "__main__":
    if sys.argv[1:2] == ["pin"]:
        from components.model.folders.pins import pin

        pin("llm", sys.argv[2:])
    else:
        run_stage("llm", work, names=("llm",))
