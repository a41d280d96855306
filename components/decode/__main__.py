"""``python -m components.decode``."""

from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.decode import run

    run.work(stage)


if __name__ == "__main__":
    run_stage("decode", work)
