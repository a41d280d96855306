"""The flow: DVC's order, nothing twice, the errors of the stages, retries only if they can help."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State, TaskRun

from components.config.errors import InputError
from components.runtime.stage import error_path
from flows import pipeline as module
from flows.command import Command
from flows.pipeline import pipeline
from flows.transcribe_batch import transcribe_batch

from .conftest import Project

pytestmark = pytest.mark.usefixtures("prefect_home")
ROOT = Path(__file__).resolve().parents[2]
Notes = Callable[[], list[str]]


def flow_run(**parameters: Any) -> State:
    """In the workspace and without a plan: the project has no parameters."""
    return pipeline(return_state=True, **{"plan": False, "in_workspace": True, **parameters})


def task_runs(state: State) -> list[TaskRun]:
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=chosen)
    return sorted(runs, key=lambda run: run.expected_start_time)


def artifacts(state: State) -> dict[str, list[dict[str, Any]]]:
    chosen = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    )
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=chosen)
    return {
        artifact.key: json.loads(artifact.data) for artifact in found if artifact.type == "table"
    }


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.run_stage, "retry_delay_seconds", 0)


def order(tmp_path: Path, stage: str, command: str) -> None:
    (tmp_path / f"order-{stage}").write_text(command)


def test_runs_in_the_order_of_dvc_then_nothing_twice(project: Project, notes: Notes) -> None:
    folder = project()
    first = flow_run()
    assert first.is_completed()
    ran = notes()
    assert sorted(ran) == ["a", "b-x", "b-y", "score", "side"]
    assert [run.name.replace("@", "-") for run in task_runs(first)] == ran
    assert {row["system"]: row["WER %"] for row in artifacts(first)["score"]} == {
        "free": "2.50",
        "ctc": "7.50",
    }
    assert [row["clips with text %"] for row in artifacts(first)["nonspeech"]] == ["50.00"]
    assert [row["stage"] for row in artifacts(first)["stages"]] == [
        run.name for run in task_runs(first)
    ]

    second = flow_run()
    assert second.is_completed()
    assert notes() == []
    assert {row["state"] for row in artifacts(second)["stages"]} == {"Cached"}

    (folder / "input").write_text("2")
    third = flow_run(targets=["a"])
    assert third.is_completed()
    assert notes() == ["a"]


def test_wrong_input_ends_the_flow_with_the_error_of_the_stage(
    project: Project, notes: Notes, tmp_path: Path
) -> None:
    project()
    order(tmp_path, "a", "input")
    state = flow_run()
    assert state.is_failed()
    assert "a broke: input" in state.message
    assert notes() == ["a"], "no stage ran again, and none after it"
    assert artifacts(state)["stages"][0]["state"] == "Failed"


def test_a_transient_error_is_tried_again(project: Project, notes: Notes, tmp_path: Path) -> None:
    project()
    order(tmp_path, "a", "transient once")
    state = flow_run(targets=["side"])
    assert state.is_completed()
    assert notes() == ["a", "a", "side"]


def test_an_error_that_does_not_pass_ends_the_flow(
    project: Project, notes: Notes, tmp_path: Path
) -> None:
    project()
    order(tmp_path, "a", "transient")
    state = flow_run()
    assert state.is_failed()
    assert notes() == ["a"] * (1 + module.run_stage.retries)


def test_stage_without_a_report_fails_with_its_last_line(
    project: Project, notes: Notes, tmp_path: Path
) -> None:
    project()
    stale = error_path("a")
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"kind": "transient", "unit": "", "message": "of an earlier run"}))
    order(tmp_path, "a", "silent")
    state = flow_run()
    assert state.is_failed()
    assert "failed to reproduce 'a'" in state.message
    assert "earlier" not in state.message
    assert notes() == ["a"]


def test_output_of_a_stage_is_logged_as_it_comes(
    project: Project, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    project()
    flow_run(targets=["a"])
    assert f"working on a with progress in {tmp_path / 'work' / 'errors'}" in caplog.text
    flow_run(targets=["a"])
    assert "Stage 'a' didn't change, skipping" in caplog.text


def test_an_interrupted_flow_leaves_no_stage_running(tmp_path: Path) -> None:
    late = tmp_path / "late"
    stage = f"import time; print('at work', flush=True); time.sleep(2); open({str(late)!r}, 'w')"
    command = Command([sys.executable, "-c", stage], tmp_path / "progress.jsonl")
    assert next(command.read_lines()) == "at work"
    command.terminate()
    time.sleep(3)
    assert not late.exists()


def test_unknown_target_stops_before_any_work(
    project: Project, notes: Notes, capsys: pytest.CaptureFixture[str]
) -> None:
    project()
    assert module.main(["sid"]) == 2
    assert "'side'" in capsys.readouterr().err
    assert notes() == []


def test_a_plan_that_does_not_fit_ends_the_flow_before_any_stage(
    project: Project, notes: Notes
) -> None:
    folder = project()
    shutil.copytree(ROOT / "catalogue", folder / "catalogue")
    params = (ROOT / "params.yaml").read_text()
    for key, name in (("corpus", "mls"), ("encoder", "hubert-xlarge"), ("projector", "linear")):
        params = re.sub(rf"^{key}: \S+", f"{key}: {name}", params, flags=re.MULTILINE)
    (folder / "params.yaml").write_text(params)
    state = flow_run(plan=True)
    assert state.is_failed()
    assert "GB" in str(state.message)
    assert notes() == []
    assert flow_run(plan=True, targets=["a"]).is_completed(), "a plan is for all stages"
    assert flow_run(plan=False).is_completed()
    assert flow_run(plan=True).is_completed(), "nothing to do, so no plan"
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "result"], check=True)
    notes()
    assert flow_run(plan=True, in_workspace=False).is_completed(), "nor in a clone"
    assert notes() == []


def test_an_old_name_of_a_parameter_is_refused_with_the_new_one() -> None:
    with pytest.raises(InputError) as caught:
        pipeline.validate_parameters({"here": True})
    assert caught.value.subject == "here"
    assert "'in_workspace'" in caught.value.hint
    with pytest.raises(InputError) as caught:
        transcribe_batch.validate_parameters({"within": "recordings", "out": "transcripts"})
    assert "'source'" in caught.value.hint
