"""New data → a new model, used only if it is better: the flow that a schedule starts every week.

``python -m flows.retrain [--guarded SET …] [--system constrained] [--push]``. It scans the data
roots in a clone of the last commit, and ends if nothing is new. Otherwise the pipeline runs, and
the result returns as the branch ``retrain``. By the rule in flows/promotion.py the model is
promoted to a version of the DVC artifact ``bridge``; the model before it stays a version of its
own:

    dvc artifacts get . bridge --rev v1.0.0      # its bridge alone
    git checkout bridge@v1.0.0 && dvc checkout   # all that it was trained with (or dvc pull)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from components.config.errors import BY_CODE, LibrettoError
from components.config.params import read_params
from components.runtime.parquet import read_table
from components.score.figures import read_scores
from flows import dag
from flows.clone import clone_workspace
from flows.command import run
from flows.differences import SCHEMA, UTTERANCES, collect_errors, read_errors
from flows.experiments import read_committed
from flows.pipeline import RETRIES, check_plan, publish, push, reproduce, run_command
from flows.promotion import RunOutcome, Verdict, judge, list_versions, promote
from flows.results import SCORE
from flows.run_names import dated_name

BRANCH = "retrain"  # the last attempt, promoted or not
SOURCES = "data/sources"


@task(**RETRIES)
def find_new_data() -> bool:
    """Scans the data roots; returns whether they differ from the last attempt, or from the last
    commit if there was none.
    """
    code, last_line = run_command(
        [sys.executable, "-m", "components.corpus", "scan", "--corpus", read_params().corpus],
        "corpus",
    )
    if code:
        raise BY_CODE.get(code, LibrettoError)(last_line, subject="corpus")
    run("git", "add", SOURCES)
    last_attempt = run("git", "branch", "--list", "--remotes", f"origin/{BRANCH}")
    changed = run("git", "diff", "--cached", "--name-only", last_attempt or "HEAD", "--", SOURCES)
    return bool(changed)


@task(cache_policy=NO_CACHE)
def decide(system: str, guarded: Sequence[str]) -> Verdict:
    """The new model of this clone against the one in use: the last version, or the last commit if
    none was promoted yet.
    """
    revision = (list_versions() or ["HEAD"])[0]
    scores = read_committed(revision, SCORE)
    errors = read_errors(revision) if scores else None
    if errors is None:
        return Verdict(True, f"{revision} has no scores to compare with", [])
    new = RunOutcome(collect_errors(read_table(UTTERANCES, SCHEMA)), read_scores(SCORE))
    old = RunOutcome(errors, scores)
    return judge(old, new, system, guarded, read_params().score.resamples)


@flow(
    name="retrain",
    flow_run_name=dated_name("retrain"),
    persist_result=False,
)
def retrain(
    guarded: Sequence[str] = (),
    system: str = "constrained",
    push_results: bool = False,
    plan: bool = True,
) -> str:
    """Scans, trains on new data and promotes the model if it is better on the ``guarded`` sets of
    speech, as transcribed by ``system``.

    Returns ``nothing new``, ``kept`` if the model in use stays, or the tag of the new one. ``plan``
    stops before any work if a disk or the memory is too small, ``push_results`` sends all to the
    DVC remote.
    """
    log = get_run_logger().info
    with clone_workspace(log) as location:
        if not find_new_data():
            log("nothing new in the data roots")
            return "nothing new"
        before = dag.read_parameters()
        if plan:
            check_plan()
        reproduce(())
        publish(before)
        verdict = decide(system, guarded)
        create_table_artifact(verdict.rows, key="promotion", description=verdict.reason)
        if push_results:
            push()
        _, commit = location.save_branch(f"Retrained: {verdict.reason}", BRANCH)
        if not verdict.is_promoted:
            log(f"not promoted: {verdict.reason}. It is the branch '{BRANCH}'.")
            return "kept"
        tag = promote(str(location.workspace), commit, verdict.reason)
        log(f"promoted as {tag}: {verdict.reason}")
        return tag


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain", description="Trains on new data; promotes what is better."
    )
    parser.add_argument(
        "--guarded",
        nargs="+",
        default=[],
        metavar="SET",
        help="sets of speech that decide (default: all)",
    )
    parser.add_argument(
        "--system", default="constrained", help="whose hypotheses decide (default: constrained)"
    )
    parser.add_argument("--push", action="store_true", help="'dvc push' the result")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="run even if the plan says that a disk or the memory is too small",
    )
    options = parser.parse_args(arguments)
    try:
        print(retrain(options.guarded, options.system, options.push, not options.no_plan))
    except LibrettoError as error:
        print(f"retrain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
