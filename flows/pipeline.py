"""The whole pipeline as a Prefect flow: one task run a DVC stage, in DVC's order.

``python -m flows.pipeline [TARGET ...] [--here] [--push] [--commit] [--no-plan]`` runs it. It needs
no server (Prefect starts an ephemeral one) and takes the one that PREFECT_API_URL names. It works
in a clone of the last commit, in a workspace only where ``--here`` says so. One ``dvc repro`` does
the work; a stage that is up to date shows as Cached, the output of every other goes to the log as
it comes, its progress with the time left is an artifact. Its cost: docs/guide/deployments.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from components.config.errors import BY_CODE, InputError, LibrettoError, TransientError
from components.runtime.hashing import file_digest
from components.runtime.settings import work_root
from components.runtime.stage import error_path
from components.runtime.unit_cache import link_file
from flows import dag
from flows.clone import CloneLocation, clone, commit_result, workspace
from flows.command import DVC, Command, run
from flows.reproduction import RAN, Reproduction
from flows.results import SCORE, text_on_nonspeech, word_errors

REPORT = Path("data/report/index.html")
MESSAGE = "Result of the pipeline"  # of the commit


def may_pass(_task: Any, _run: TaskRun, state: State) -> bool:
    """Whether trying again can help: never after a wrong parameter or input."""
    return isinstance(state.data, TransientError)


AGAIN: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [10, 60, 300],
    "retry_condition_fn": may_pass,
    "persist_result": False,
    "cache_policy": NO_CACHE,
}


@task(task_run_name="{stage}", **AGAIN)
def run_stage(stage: str, reproduction: Reproduction) -> State:
    """Follows one stage; raises the error that the stage left in its ``error.json``."""
    shown = StageProgress(stage)
    outcome = reproduction.follow(stage, get_run_logger().info, shown)
    shown.end()
    return (
        Completed(message=outcome) if outcome == RAN else Completed(name="Cached", message=outcome)
    )


class StageProgress:
    """A stage's own progress as an artifact of its task run; a stage that reports none has none."""

    def __init__(self, stage: str) -> None:
        self._key = f"progress-{stage.replace('@', '-')}"
        self._artifact: UUID | None = None
        self._last: dict[str, Any] = {}

    def __call__(self, progress: dict[str, Any]) -> None:
        if progress != self._last:
            self._last = progress
            self._write(100 * progress["done"] / max(progress["total"], 1e-9), described(progress))

    def _write(self, percent: float, text: str) -> None:
        if self._artifact is None:
            self._artifact = cast(
                UUID, create_progress_artifact(percent, key=self._key, description=text)
            )
        else:
            update_progress_artifact(self._artifact, percent, text)

    def end(self) -> None:
        if self._last:
            self._write(100.0, "done")


def described(progress: dict[str, Any]) -> str:
    """A line of progress (components.runtime.progress) in words: ``spoken-train: 10 of 38 shards,
    0.5 a second, 56 s left``.
    """
    parts = [
        f"{progress['task']}: {progress['done']:g} of {progress['total']:g} {progress['unit']}",
        f"{progress['per_second']:g} a second",
    ]
    parts += [] if progress["seconds_left"] is None else [f"{progress['seconds_left']:.0f} s left"]
    return ", ".join([*parts, *filter(None, [progress["note"]])])


@task(cache_policy=NO_CACHE)
def check_plan() -> None:
    """Stops before any work where a disk or the memory will not do; the log shows what the run will
    cost.
    """
    code, last = run_command([sys.executable, "-m", "components.plan"], "plan")
    if code:
        raise BY_CODE.get(code, LibrettoError)(last.removeprefix("plan: "))


@task(**AGAIN)
def push() -> None:
    """Sends what the workspace's lock names to the DVC remote; a remote that does not answer is
    asked again.
    """
    if not run(*DVC, "remote", "list"):
        raise InputError(
            "There is no DVC remote to push to.",
            subject="push_results",
            hint="'dvc remote add --default NAME URL' makes one.",
        )
    code, last = run_command([*DVC, "push"], "push")
    if code:  # DVC's code says nothing of the reason
        raise TransientError(
            f"'dvc push' failed: {last}.", hint="'dvc remote list' shows where it goes."
        )


def run_command(arguments: list[str], name: str) -> tuple[int, str]:
    """Runs a command with its output in the log, and its progress, if it tells any, as an artifact;
    returns exit code and last line.
    """
    command, last, shown = (
        Command(arguments, error_path(name).with_name("progress.jsonl")),
        "",
        StageProgress(name),
    )
    try:
        for line in command.lines():
            if line:
                last = line
                get_run_logger().info("%s", line)
            elif progress := command.progress():
                shown(progress)
        shown.end()
        return command.code(), last
    finally:
        command.end()


def reproduce(targets: Sequence[str]) -> None:
    """Brings ``targets`` (all stages by default) up to date, a task run a stage, and leaves an
    artifact with their seconds.
    """
    order, times = dag.stages(targets), []
    reproduction = Reproduction(targets, order)
    try:
        for stage in order:
            start = time.monotonic()
            state = run_stage(stage, reproduction, return_state=True)
            times.append(
                {"stage": stage, "state": state.name, "seconds": round(time.monotonic() - start, 1)}
            )
            state.result()
    finally:
        reproduction.end()
        create_table_artifact(times, key="stages", description="Seconds a stage")


def publish(before: dict[str, Any]) -> None:
    """Scores, the way to the report, and which parameters are other ones than in the run before, as
    artifacts.
    """
    if SCORE.is_file():
        scores = json.loads(SCORE.read_text())
        create_table_artifact(
            word_errors(scores), key="score", description="Word errors, with 95 % intervals"
        )
        create_table_artifact(
            text_on_nonspeech(scores), key="nonspeech", description="Text on non-speech"
        )
    create_table_artifact(
        dag.changed_parameters(before, dag.parameters()),
        key="parameters",
        description="Changed since the last run",
    )
    if REPORT.is_file():
        kept = work_root() / "reports" / f"{file_digest(REPORT)[:12]}.html"
        link_file(REPORT, kept)  # a clone goes
        create_link_artifact(
            kept.as_uri(),
            link_text=str(kept),
            key="report",
            description="One page; open it in a browser of this machine",
        )


@flow(name="pipeline")
def pipeline(
    targets: Sequence[str] = (),
    here: bool = False,
    plan: bool = True,
    push_results: bool = False,
    commit: bool = False,
) -> None:
    """Reproduces ``targets`` (all stages by default) in a clone of the last commit, and publishes
    what came out.

    The result comes back as a DVC experiment, or with ``commit`` as a branch with a commit of
    ``dvc.lock``. ``here`` works in this workspace, where nobody may edit meanwhile; ``commit`` then
    adds the commit to its branch. ``plan`` stops a whole run before any work where a disk or the
    memory will not do (components.plan). ``push_results`` sends all to the DVC remote.
    """
    say = get_run_logger().info
    with workspace() if here else clone(say) as place:
        before = dag.parameters()
        if plan and not targets and not dag.is_clean():  # a plan is one of the whole
            check_plan()
        reproduce(targets)
        publish(before)
        if push_results:
            push()
        bring_back(place, commit)


def bring_back(place: CloneLocation, commit: bool) -> None:
    """Leaves the result where the workspace has it, and says how to take it."""
    say = get_run_logger().info
    if place.folder == place.above:
        if commit:
            say(f"committed as {commit_result(MESSAGE)}")
    elif commit:
        name, _ = place.as_branch(MESSAGE)
        say(f"the result is the branch '{name}': git merge {name} && dvc checkout")
    elif name := place.as_experiment():
        say(f"the result is the DVC experiment '{name}': dvc exp apply {name}")
    else:
        say("the result is that of the last commit")


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
        help="run even where the plan says that a disk or the memory will not do",
    )
    options = parser.parse_args(arguments)
    try:
        pipeline(options.targets, options.here, not options.no_plan, options.push, options.commit)
    except LibrettoError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
