"""``python -m components.features --encoder NAME --role ROLE``."""

from components.runtime.stage import Stage, run_stage


def work(stage: Stage) -> None:
    """Runs the stage; its modules are imported here, so that ``--help`` needs no library."""
    from components.features import extract

    extract.work(stage)


if __name__ == "__main__":
    run_stage("features", work, names=("encoder",), roles=True)
