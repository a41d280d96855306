"""The whole pipeline as a Prefect flow: one task run a DVC stage, in DVC's order.

``python -m flows.pipeline [TARGET ...] [--clone] [--no-plan]`` runs it. It needs no server (Prefect starts an ephemeral one) and takes
the one that PREFECT_API_URL names. A stage that is up to date costs about 0.3 s and shows as Cached; every other runs as
``dvc repro --single-item`` in a process of its own (about 1 s beyond the stage's time) with its output in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from components.config.errors import InputError, LibrettoError, TransientError
from components.config.stage import error_path
from flows import dag
from flows.clone import clone
from flows.results import SCORE, text_on_nonspeech, word_errors

ERRORS: dict[str, type[LibrettoError]] = {kind.kind: kind for kind in (InputError, TransientError)}


def may_pass(_task: Any, _run: TaskRun, state: State) -> bool:
    """Whether trying again can help: never after a wrong parameter or input."""
    return isinstance(state.data, TransientError)


@task(task_run_name="{stage}", retries=3, retry_delay_seconds=[10, 60, 300], retry_condition_fn=may_pass, persist_result=False)
def run_stage(stage: str) -> State:
    """Reproduces one stage; raises the error that the stage left in its ``error.json``."""
    logger = get_run_logger()
    changed = dag.changes(stage)
    if not changed:
        logger.info("%s is up to date", stage)
        return Completed(name="Cached", message="up to date")
    logger.info("%s runs: %s", stage, "; ".join(changed))
    report = error_path(stage.split("@")[0])
    report.unlink(missing_ok=True)
    code, last = _follow([sys.executable, "-m", "dvc", "repro", "--single-item", stage], report.with_name("progress.jsonl"), logger)
    if code:
        raise _error(stage, report, last)
    return Completed(message="ran")


@task
def check_plan() -> None:
    """Stops before any work where a disk or the memory will not do; the log shows what the run will cost."""
    code, last = _follow([sys.executable, "-m", "components.plan"], error_path("plan").with_name("progress.jsonl"), get_run_logger())
    if code:
        raise ERRORS["transient" if code == TransientError.exit_code else "input"](last.removeprefix("plan: "))


def _follow(command: list[str], progress: Path, logger: Any) -> tuple[int, str]:
    """Runs ``command`` with each line of its output in the log as it comes; returns exit code and last line."""
    progress.parent.mkdir(parents=True, exist_ok=True)
    progress.write_text("")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # a stage's `python` is the one that runs the flow
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "LIBRETTO_PROGRESS": str(progress)}
    last = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    logger.info("%s", line.rstrip())
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # a cancelled flow leaves no stage running
            raise
    return process.returncode, last


def _error(stage: str, report: Path, last: str) -> LibrettoError:
    if not report.is_file():
        return LibrettoError(f"{stage}: {last or 'no output'}", unit=stage, way_out="See the log of this task run.")
    record = json.loads(report.read_text())
    return ERRORS.get(record["kind"], LibrettoError)(f"{stage}: {record['message']}", unit=record["unit"])


@flow(name="pipeline")
def pipeline(targets: Sequence[str] = (), here: bool = True, plan: bool = True) -> None:
    """Reproduces ``targets`` (all stages by default) and publishes scores and seconds as table artifacts.

    ``plan`` stops a whole run before any work where a disk or the memory will not do (components.plan).

    ``here=False`` works in a clone of the last commit and brings the result back as a DVC experiment, so that nobody's
    edits meet a running stage.
    """
    with contextlib.nullcontext() if here else clone(get_run_logger().info):
        times: list[dict[str, Any]] = []
        try:
            order = dag.stages(targets)
            if plan and not targets:  # a plan is one of the whole
                check_plan()
            for stage in order:
                start = time.monotonic()
                state = run_stage(stage, return_state=True)
                times.append({"stage": stage, "state": state.name, "seconds": round(time.monotonic() - start, 1)})
                state.result()
        finally:
            create_table_artifact(times, key="stages", description="Seconds a stage")
        if SCORE.is_file():
            scores = json.loads(SCORE.read_text())
            create_table_artifact(word_errors(scores), key="score", description="Word errors")
            create_table_artifact(text_on_nonspeech(scores), key="nonspeech", description="Text on non-speech")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Runs the stages of dvc.yaml under Prefect.")
    parser.add_argument("targets", nargs="*", help="stages or outputs to bring up to date (default: all)")
    parser.add_argument("--clone", action="store_true", help="work in a clone of the last commit; the result comes back as an experiment")
    parser.add_argument("--no-plan", action="store_true", help="run even where the plan says that a disk or the memory will not do")
    options = parser.parse_args(arguments)
    try:
        pipeline(options.targets, here=not options.clone, plan=not options.no_plan)
    except LibrettoError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
