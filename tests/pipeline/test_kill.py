"""SIGKILL in the middle of stages, real processes: finished units stay, half-written ones are never
used, and the result is to the bit that of an undisturbed run, in another clone, with another work
cache.
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

from .project import Project, create_project


def find_processes(project: Project, module: str) -> list[int]:
    """Ids of a stage's main processes in the project's workspace, or in the copy of a queued
    experiment below it.
    """
    process_ids = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if (
                b"-m" in words
                and f"components.{module}".encode() in words
                and (entry / "cwd").resolve().is_relative_to(project.folder)
            ):
                process_ids.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return process_ids


def count_finished(project: Project, stage: str) -> int:
    """Finished units of a stage in the work cache."""
    return len(list((project.work / stage).glob("??/*/unit.json")))


def kill_in(project: Project, stage: str, ready: Callable[[], bool], *command: str) -> None:
    """Runs ``dvc repro``, or another ``command`` of DVC, and kills the stage's process with SIGKILL
    as soon as ``ready`` is true.
    """
    run = project.start(sys.executable, "-m", "dvc", *(command or ("repro",)))
    try:
        deadline = time.monotonic() + 900  # a guard against hanging, on machines of any speed
        while not (find_processes(project, stage) and ready()):
            assert run.poll() is None, f"ended before {stage} could be killed"
            assert time.monotonic() < deadline, f"{stage} did not get that far"
            time.sleep(0.02)
        for process_id in find_processes(project, stage):
            os.kill(process_id, signal.SIGKILL)
        output, _ = run.communicate(timeout=120)
        # A queue ends with 0 even if its experiments fail.
        assert run.returncode != 0 or command, output
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


@pytest.mark.slow
def test_a_run_killed_in_four_stages_has_the_hashes_of_an_undisturbed_one(
    smoke: Project, tmp_path: Path
) -> None:
    project = create_project(tmp_path / "project", tmp_path / "work")
    kill_in(project, "shards", lambda: count_finished(project, "shards") >= 1)
    kill_in(project, "features", lambda: count_finished(project, "features") >= 1)
    kill_in(
        project,
        "train",
        lambda: any(project.work.glob("train/*/*.partial/resume/*/last/state.json")),
    )
    kill_in(project, "decode", lambda: count_finished(project, "decode") >= 1)
    num_finished = count_finished(project, "decode")
    assert 1 <= num_finished < 9  # some units were finished, and some were not
    project.dvc("repro")
    assert project.lock() == smoke.lock()
    assert project.scores() == smoke.scores()


@pytest.mark.slow
def test_an_experiment_killed_in_training_and_queued_again_has_the_hashes_of_an_undisturbed_run(
    smoke: Project, tmp_path: Path
) -> None:
    shutil.copytree(smoke.work, tmp_path / "work", copy_function=os.link)
    for unit in ("train", "curriculum"):  # all but the training is done
        shutil.rmtree(tmp_path / "work" / unit)
    project = create_project(tmp_path / "project", tmp_path / "work")
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
    assert any(project.work.glob(checkpoints)), "there is no checkpoint to continue from"
    project.dvc("exp", "run", "--queue", "-n", "second")
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    project.dvc("exp", "apply", "second")
    assert project.lock() == smoke.lock()
    assert project.scores() == smoke.scores()


@pytest.mark.slow
def test_an_experiment_started_while_a_stage_runs_leaves_no_false_record(
    smoke: Project, tmp_path: Path
) -> None:
    """``dvc exp run -S llm=…`` writes params.yaml and then stops, since DVC is busy: the running
    stage must not be recorded with the new name.
    """
    project = smoke.copy(tmp_path / "project", tmp_path / "work")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "run")
    lock = project.lock()
    project.set(train__seed=2)
    run = project.start(sys.executable, "-m", "dvc", "repro", "train")
    while not find_processes(project, "train"):
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
    assert second.returncode != 0, "DVC started an experiment while a stage ran"
    assert project.params()["llm"] == "phi-smoke", (
        "DVC did not write params.yaml first: this test has nothing to check"
    )
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0, output
    assert "params.yaml" in output
    assert project.lock()["train"] == lock["train"]
