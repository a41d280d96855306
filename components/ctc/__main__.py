"""``python -m components.ctc --projector NAME``."""

from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.ctc import build

    build.work(stage)


if __name__ == "__main__":
    run_stage("ctc", work, names=("projector",))
