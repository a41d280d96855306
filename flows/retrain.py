"""New data → a new model, and into use only where it is better: the flow that a schedule starts
every week.

``python -m flows.retrain [--guarded SET …] [--system constrained] [--push]``. It scans the data
roots in a clone of the last commit; where nothing is new it ends there. Else the pipeline runs, and
the result comes back as the branch ``retrain``. The model is promoted by flows/promotion.py's rule,
as a version of the DVC artifact ``bridge``; the one before stays a version of its own:

    dvc artifacts get . bridge --rev v1.0.0      # its bridge
    git checkout bridge@v1.0.0 && dvc checkout   # all that it was made with
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import pyarrow.parquet as pq
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from components.config.errors import BY_CODE, LibrettoError
from components.config.params import read_params
from flows import dag
from flows.clone import clone
from flows.command import run
from flows.differences import UTTERANCES, errors_of, read_errors
from flows.experiments import committed
from flows.pipeline import AGAIN, check_plan, publish, push, reproduce, run_command
from flows.promotion import Outcome, Verdict, judge, promote, versions
from flows.results import SCORE

BRANCH = "retrain"  # the last attempt, promoted or not
SOURCES = "data/sources"


@task(**AGAIN)
def scan() -> bool:
    """Looks at the data roots; whether they hold something else than in the last attempt, or in the
    last commit where there was none.
    """
    code, last = run_command(
        [sys.executable, "-m", "components.corpus", "scan", "--corpus", read_params().corpus],
        "corpus",
    )
    if code:
        raise BY_CODE.get(code, LibrettoError)(last)
    run("git", "add", SOURCES)
    last_attempt = run("git", "branch", "--list", "--remotes", f"origin/{BRANCH}")
    return bool(
        run("git", "diff", "--cached", "--name-only", last_attempt or "HEAD", "--", SOURCES)
    )


@task(cache_policy=NO_CACHE)
def decide(system: str, guarded: Sequence[str]) -> Verdict:
    """The new model of this clone against the one in use: the last version, or the last commit
    where none was promoted yet.
    """
    used = (versions() or ["HEAD"])[0]
    scores = committed(used, SCORE)
    errors = read_errors(used) if scores else None
    if errors is None:
        return Verdict(True, f"{used} has no scores to stand against", [])
    new = Outcome(errors_of(pq.read_table(UTTERANCES)), json.loads(SCORE.read_text()))
    return judge(Outcome(errors, scores), new, system, guarded, read_params().score.resamples)


@flow(name="retrain", persist_result=False)
def retrain(
    guarded: Sequence[str] = (),
    system: str = "constrained",
    push_results: bool = False,
    plan: bool = True,
) -> str:
    """Returns what became of it: nothing new, kept the model in use, or the tag of the new one."""
    say = get_run_logger().info
    with clone(say) as place:
        if not scan():
            say("nothing new in the data roots")
            return "nothing new"
        before = dag.parameters()
        if plan:
            check_plan()
        reproduce(())
        publish(before)
        verdict = decide(system, guarded)
        create_table_artifact(verdict.rows, key="promotion", description=verdict.why)
        if push_results:
            push()
        _, commit = place.as_branch(f"Retrained: {verdict.why}", BRANCH)
        if not verdict.promoted:
            say(f"not promoted: {verdict.why}. It is the branch '{BRANCH}'.")
            return "kept"
        tag = promote(str(place.above), commit, verdict.why)
        say(f"promoted as {tag}: {verdict.why}")
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
        help="run even where the plan says that a disk or the memory will not do",
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
