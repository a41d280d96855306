"""SIGKILL in the middle of stages, real processes: what was finished is kept, nothing half-written
is taken for whole, and the end is to the bit that of a run nobody disturbed, in another clone, on
another work cache.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .project import Project, make_project


def processes(project: Project, module: str) -> list[int]:
    """Main processes of a stage that run in the project's workspace, or in a queued experiment's
    copy below it.
    """
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if (
                b"-m" in words
                and f"components.{module}".encode() in words
                and (entry / "cwd").resolve().is_relative_to(project.folder)
            ):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def finished(project: Project, stage: str) -> int:
    """Finished units of a stage in the work cache."""
    return len(list((project.work / stage).glob("??/*/unit.json")))


def kill_in(project: Project, stage: str, ready: Callable[[], bool], *command: str) -> None:
    """Runs ``dvc repro``, or another ``command`` of DVC, and kills the stage's process, with
    SIGKILL, as soon as ``ready`` says.
    """
    run = project.start(sys.executable, "-m", "dvc", *(command or ("repro",)))
    try:
        deadline = time.monotonic() + 900  # a guard against hanging, on machines of any speed
        while not (processes(project, stage) and ready()):
            assert run.poll() is None, f"ended before {stage} could be killed"
            assert time.monotonic() < deadline, f"{stage} did not come that far"
            time.sleep(0.02)
        for pid in processes(project, stage):
            os.kill(pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=120)
        assert run.returncode != 0 or command, (
            output
        )  # a queue ends with 0 whatever becomes of its experiments
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


@pytest.mark.slow
def test_killed_in_four_stages_it_ends_with_the_hashes_of_an_undisturbed_run(
    smoke: Project, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", tmp_path / "work")
    kill_in(project, "shards", lambda: finished(project, "shards") >= 1)
    kill_in(project, "features", lambda: finished(project, "features") >= 1)
    kill_in(
        project,
        "train",
        lambda: any(project.work.glob("train/*/*.partial/resume/*/last/state.json")),
    )
    kill_in(project, "decode", lambda: finished(project, "decode") >= 1)
    before = finished(project, "decode")
    assert 1 <= before < 9  # there was something to keep, and something left to do
    project.dvc("repro")
    assert project.lock() == smoke.lock()
    assert project.scores() == smoke.scores()


@pytest.mark.slow
def test_an_experiment_killed_in_training_and_queued_again_has_the_hashes_of_an_undisturbed_run(
    smoke: Project, tmp_path: Path
) -> None:
    shutil.copytree(smoke.work, tmp_path / "work", copy_function=os.link)
    for unit in ("train", "curriculum"):  # all but the training is at hand
        shutil.rmtree(tmp_path / "work" / unit)
    project = make_project(tmp_path / "project", tmp_path / "work")
    checkpoints = "train/*/*.partial/resume/*/last/state.json"
    project.dvc("exp", "run", "--queue", "-n", "killed")
    kill_in(
        project,
        "train",
        lambda: any(project.work.glob(checkpoints)),
        "exp",
        "run",
        "--run-all",
        "--jobs",
        "1",
    )
    assert "Failed" in project.dvc("queue", "status")
    assert any(project.work.glob(checkpoints)), "nothing is left to go on from"
    project.dvc("exp", "run", "--queue", "-n", "again")
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    project.dvc("exp", "apply", "again")
    assert project.lock() == smoke.lock()
    assert project.scores() == smoke.scores()


@pytest.mark.slow
def test_an_experiment_started_while_a_stage_runs_leaves_no_false_record(
    smoke: Project, tmp_path: Path
) -> None:
    """``dvc exp run -S llm=…`` writes params.yaml and then finds DVC busy: the running stage must
    not be recorded with it.
    """
    project = smoke.copy(tmp_path / "project", tmp_path / "work")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "run")
    lock = project.lock()
    project.set(train__seed=2)
    run = project.start(sys.executable, "-m", "dvc", "repro", "train")
    while not processes(project, "train"):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    time.sleep(3)
    second = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "run", "-S", "llm=phi-smoke"],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode != 0, "DVC let an experiment start beside a running stage"
    assert project.params()["llm"] == "phi-smoke", (
        "DVC did not write params.yaml first: this test has nothing to see"
    )
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0, output
    assert "changed while the stage 'train' ran" in output or "params.yaml says llm" in output
    assert project.lock()["train"] == lock["train"]
