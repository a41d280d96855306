"""The complete pipeline as a Prefect flow: one task run for each DVC stage, in DVC's order.

``python -m flows.pipeline [TARGET ...] [--here] [--push] [--commit] [--no-plan]`` runs it. It needs
no server (Prefect starts an ephemeral one) and uses the one that PREFECT_API_URL names. It works in
a clone of the last commit, or in this workspace with ``--here``. One ``dvc repro`` does the work: a
stage that is up to date is shown as Cached, the output of every other goes to the log as it comes,
and its progress with the time left is an artifact. Cost: docs/guide/deployments.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from components.config.errors import BY_CODE, InputError, LibrettoError, TransientError
from components.runtime.hashing import file_digest
from components.runtime.settings import work_root
from components.runtime.stage import error_path
from components.runtime.unit_cache import link_file
from components.score.figures import read_scores
from flows import dag
from flows.clone import CloneLocation, clone_workspace, commit_result, lock_workspace
from flows.command import DVC, Command, run
from flows.old_names import refuse_old_names
from flows.progress import StageProgress
from flows.reproduction import RAN, Reproduction
from flows.results import SCORE, list_texts, list_word_errors
from flows.run_names import dated_name

REPORT = Path("data/report/index.html")
MESSAGE = "Result of the pipeline"  # of the commit


def can_retry(_task: Any, _run: TaskRun, state: State) -> bool:
    """Whether another attempt can help: never after a wrong parameter or input."""
    return isinstance(state.data, TransientError)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [10, 60, 300],
    "retry_condition_fn": can_retry,
    "persist_result": False,
    "cache_policy": NO_CACHE,
}


@task(task_run_name="{stage}", **RETRIES)
def run_stage(stage: str, reproduction: Reproduction) -> State:
    """Follows one stage; raises the error that the stage wrote to its ``error.json``."""
    progress = StageProgress(stage)
    outcome = reproduction.follow(stage, get_run_logger().info, progress)
    progress.finish()
    if outcome == RAN:
        return Completed(message=outcome)
    return Completed(name="Cached", message=outcome)


@task(cache_policy=NO_CACHE)
def check_plan() -> None:
    """Stops before any work if a disk or the memory is too small; the log shows what the run will
    cost.
    """
    code, last_line = run_command([sys.executable, "-m", "components.plan"], "plan")
    if code:
        raise BY_CODE.get(code, LibrettoError)(last_line.removeprefix("plan: "), subject="plan")


@task(**RETRIES)
def push() -> None:
    """Sends what the workspace's lock names to the DVC remote; tries again if the remote does not
    answer.
    """
    if not run(*DVC, "remote", "list"):
        raise InputError(
            "There is no DVC remote to push to.",
            subject="push_results",
            hint="'dvc remote add --default NAME URL' adds one.",
        )
    code, last_line = run_command([*DVC, "push"], "push")
    if code:  # DVC's code is the same for any reason
        raise TransientError(
            f"'dvc push' failed: {last_line}.",
            subject="dvc push",
            hint="'dvc remote list' shows its address.",
        )


def run_command(arguments: list[str], name: str) -> tuple[int, str]:
    """Runs a command with its output in the log, and its progress, if it reports any, as an
    artifact; returns exit code and last line.
    """
    command = Command(arguments, error_path(name).with_name("progress.jsonl"))
    last_line, artifact = "", StageProgress(name)
    try:
        for line in command.read_lines():
            if line:
                last_line = line
                get_run_logger().info("%s", line)
            elif progress := command.read_progress():
                artifact(progress)
        artifact.finish()
        return command.wait(), last_line
    finally:
        command.terminate()


def reproduce(targets: Sequence[str]) -> None:
    """Brings ``targets`` (all stages by default) up to date, a task run for each stage, and writes
    an artifact with their seconds.
    """
    stages, rows = dag.list_stages(targets), []
    reproduction = Reproduction(targets, stages)
    try:
        for stage in stages:
            start = time.monotonic()
            state = run_stage(stage, reproduction, return_state=True)
            seconds = round(time.monotonic() - start, 1)
            rows.append({"stage": stage, "state": state.name, "seconds": seconds})
            state.result()
    finally:
        reproduction.terminate()
        create_table_artifact(rows, key="stages", description="Seconds a stage")


def publish(before: dict[str, Any]) -> None:
    """Writes scores, the path of the report, and the parameters that differ from ``before``, those
    of the last run, as artifacts.
    """
    if SCORE.is_file():
        scores = read_scores(SCORE)
        create_table_artifact(
            list_word_errors(scores), key="score", description="Word errors, with 95 % intervals"
        )
        create_table_artifact(list_texts(scores), key="nonspeech", description="Text on non-speech")
    create_table_artifact(
        dag.list_changes(before, dag.read_parameters()),
        key="parameters",
        description="Changed since the last run",
    )
    if REPORT.is_file():
        copy = work_root() / "reports" / f"{file_digest(REPORT)[:12]}.html"
        link_file(REPORT, copy)  # a clone is removed
        # The server's page can't link to a file of this machine: browsers refuse that.
        create_markdown_artifact(
            f"{describe_scores()}\n\nOne page, to be opened in a browser of this machine:\n\n"
            f"`{copy}`",
            key="report",
            description="Where the report is",
        )


def describe_scores() -> str:
    """The word error rates as a line for each set; empty where nothing was scored."""
    if not SCORE.is_file():
        return ""
    lines: dict[str, list[str]] = {}
    for row in list_word_errors(read_scores(SCORE)):
        lines.setdefault(row["set"], []).append(f"{row['system']} {row['WER %']}")
    return "\n".join(f"- **{name}**, WER %: {', '.join(rates)}" for name, rates in lines.items())


@refuse_old_names({"here": "in_workspace"})
@flow(name="pipeline", flow_run_name=dated_name("pipeline"))
def pipeline(
    targets: Sequence[str] = (),
    in_workspace: bool = False,
    plan: bool = True,
    push_results: bool = False,
    commit: bool = False,
) -> None:
    """Reproduces ``targets`` (all stages by default) in a clone of the last commit, and publishes
    the result.

    The result returns as a DVC experiment, or with ``commit`` as a branch with a commit of
    ``dvc.lock``. ``in_workspace`` works in this workspace, which nobody may edit meanwhile;
    ``commit`` then adds the commit to its branch. ``plan`` stops a run of all stages before any
    work if a disk or the memory is too small (components.plan). ``push_results`` sends all to the
    DVC remote.
    """
    context = lock_workspace() if in_workspace else clone_workspace(get_run_logger().info)
    with context as location:
        before = dag.read_parameters()
        if plan and not targets and not dag.is_clean():  # a plan is for all stages
            check_plan()
        reproduce(targets)
        publish(before)
        if push_results:
            push()
        return_result(location, commit)


def return_result(location: CloneLocation, commit: bool) -> None:
    """Saves the result in the workspace, and logs how to get it."""
    log = get_run_logger().info
    if location.folder == location.workspace:
        if commit:
            log(f"committed as {commit_result(MESSAGE)}")
    elif commit:
        name, _ = location.save_branch(MESSAGE)
        log(f"the result is the branch '{name}': git merge {name} && dvc checkout")
    elif name := location.save_experiment():
        log(f"the result is the DVC experiment '{name}': dvc exp apply {name}")
    else:
        log("the result is that of the last commit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Runs the stages of dvc.yaml under Prefect."
    )
    parser.add_argument(
        "targets", nargs="*", help="stages or outputs to bring up to date (default: all)"
    )
    parser.add_argument(
        "--here",
        action="store_true",
        dest="in_workspace",
        help="work in this workspace, not in a clone of its last commit",
    )
    parser.add_argument(
        "--commit",
        action="store_true",
        help="the result as a commit of dvc.lock and metrics, not as an experiment",
    )
    parser.add_argument("--push", action="store_true", help="'dvc push' the result")
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="run even if the plan says that a disk or the memory is too small",
    )
    options = parser.parse_args(arguments)
    try:
        pipeline(
            options.targets,
            options.in_workspace,
            not options.no_plan,
            options.push,
            options.commit,
        )
    except LibrettoError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
