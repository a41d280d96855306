"""Experiments of a small project, queued and run for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import compare, experiments

from .conftest import ROOT, Project, processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_home")]

# Its word error rate in percent is the number of steps after the first stage; one LLM breaks it.
TRAIN = """
import json, os, sys, yaml
params = yaml.safe_load(open("params.yaml"))
mended = os.path.join(os.environ["DVC_ROOT"], "mended")
if params["llm"] == "phi-tiny" and not os.path.exists(mended):
    print("train: this LLM does not fit")
    sys.exit(2)
os.makedirs("metrics", exist_ok=True)
stages = params["train"]["curriculum"]
frozen = [stage["freeze"] for stage in stages]
assert frozen in ([[], []], [[], ["*.layers.[0-1].*"], []]), stages
wer = sum(stage["steps"] for stage in stages[1:]) / 100
json.dump({"test": {"free": {"wer": wer}}}, open("metrics/score.json", "w"))
if params["train"]["seed"] > 1:  # the errors of its utterances: ten of each hundred words a step
    import pyarrow as pa, pyarrow.parquet as pq
    os.makedirs("data/score", exist_ok=True)
    wrong = stages[1]["steps"] * 10
    rows = [{"set": "test", "role": "test", "system": "free", "id": str(n), "speaker": str(n % 9),
             "substitutions": wrong + n % 3, "deletions": 0, "insertions": 0, "words": 100}
            for n in range(90)]
    pq.write_table(pa.Table.from_pylist(rows), "data/score/utterances.parquet")
else:
    os.makedirs("data/score", exist_ok=True)
"""
WAITS = """
import os, pathlib, time
mark = pathlib.Path("{folder}", "at-work")
if not mark.exists():
    mark.touch()
    time.sleep(300)
"""
STAGES = {
    "train": {
        "cmd": "python train.py",
        "params": ["llm", "train"],
        "outs": ["data/score"],
        "metrics": [{"metrics/score.json": {"cache": False}}],
    }
}
RECIPE = """
cells:
  some: {train.curriculum.1.steps: 7}
  broken: {llm: phi-tiny}
  more:  # a curriculum of another length
    train.curriculum:
      - &stage {name: one, steps: 5, tune: [projector], learning_rate: 0.0001, warmup: 1,
                decay: constant, nonspeech_share: 0.0, freeze: []}
      - {<<: *stage, name: two, tune: [projector, lora], freeze: ["*.layers.[0-1].*"]}
      - {<<: *stage, name: three, nonspeech_share: 0.5}
    train.curriculum.1.steps: 3
published:
  source: a paper
  grade: read
  wer:
    some: {spoken-test: 6.5}
"""


@pytest.fixture
def recipe_project(project: Project) -> None:
    folder = project(STAGES)
    (folder / ".gitignore").write_text("/data/score\n/mended\n")
    shutil.copytree(ROOT / "catalogue", folder / "catalogue")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "train.py").write_text(TRAIN)
    (folder / "flows/recipes").mkdir(parents=True)
    shutil.copy(ROOT / "flows/recipes/embedded.yaml", folder / "flows/recipes")
    (folder / "flows/recipes/trial.yaml").write_text(RECIPE)
    for command in ("git add -A", "git commit -qm all"):
        subprocess.run(command.split(), check=True)


def compare_recipe(*arguments: str) -> int:
    """Without a plan, which would be one of this machine."""
    return compare.main(["trial", "--no-plan", *arguments])


def rows(text: str) -> dict[str, list[str]]:
    """Columns of the first table by experiment."""
    lines = [re.split(" {2,}", line) for line in text.splitlines() if line.startswith("trial-")]
    return {name: columns for name, *columns in lines}


def test_one_worker_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert compare.list_devices(0) == ["4", "5"]
    assert compare.list_devices(3) == ["4", "5", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (compare.list_devices(0), compare.list_devices(2)) == ([""], ["", ""])


def test_a_failing_cell_is_one_failed_row(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare_recipe() == 1
    table = rows(capfd.readouterr().out)
    assert table["trial-some"] == ["done", "7.00", "6.50"]
    assert table["trial-more"] == ["done", "8.00", "-"]
    assert table["trial-broken"] == ["failed: train: this LLM does not fit", "-"]

    # The second time a cell that is done is not run again, one that failed is.
    before = experiments.list_results()["trial-some"]
    Path("mended").touch()
    assert compare_recipe() == 0
    table = rows(capfd.readouterr().out)
    assert (table["trial-some"], table["trial-broken"]) == (
        ["done", "7.00", "6.50"],
        ["done", "650.00", "-"],
    )
    assert experiments.list_results()["trial-some"] == before

    # A cell that is run again replaces the one before.
    assert compare_recipe("--only", "some", "--again") == 0
    assert rows(capfd.readouterr().out) == {"trial-some": ["done", "7.00", "6.50"]}
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(listed.stdout.split()) == ["trial-broken", "trial-more", "trial-some"]
    listed_experiments = json.loads(
        subprocess.run(
            [sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, check=True
        ).stdout
    )
    assert not subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, check=True
    ).stdout, "the workspace is as it was"
    assert listed_experiments[0]["rev"] == "workspace"


def test_cells_of_several_seeds_come_as_mean_and_range_too(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("train.py").write_text(
        TRAIN.replace("[1:]) / 100", '[1:]) / 100 + params["train"]["seed"] / 1000')
    )
    Path("flows/recipes/trial.yaml").write_text(
        "grid:\n  train.seed: [1, 3]\n  steps: {few: {train.curriculum.1.steps: 2}, more: "
        "{train.curriculum.1.steps: 5}}\n"
    )
    assert compare_recipe() == 0
    printed = capfd.readouterr().out
    assert "trial-few    2      test  free    2.20 (2.10–2.30)" in printed
    assert "trial-more   2      test  free    5.20 (5.10–5.30)" in printed


def test_the_other_cells_are_compared_with_the_first(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("flows/recipes/trial.yaml").write_text(
        "cells:\n  base: {train.seed: 2, train.curriculum.1.steps: 3}\n  broken: {llm: phi-tiny}\n"
        "  better: {train.seed: 2, train.curriculum.1.steps: 2}\n"
        "  untabled: {train.curriculum.1.steps: 2}\n"
    )
    assert compare_recipe() == 1
    printed = capfd.readouterr().out
    assert "Against trial-base" in printed
    assert re.search(
        r"^trial-better +test +free +-10\.00 \(-10\.00 to -10\.00\) +0\.0000 +\*$",
        printed,
        re.MULTILINE,
    )
    assert "trial-broken  test" not in printed, "a failed cell has a failed row and nothing else"
    assert "trial-untabled" in printed.splitlines()[-1], "it has no errors by utterance"


def test_a_cell_that_is_too_large_stops_before_anything_is_queued(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    large = (
        "cells:\n  large: {corpus: mls, encoder: hubert-xlarge, projector: linear}\n  some: {}\n"
    )
    Path("flows/recipes/trial.yaml").write_text(large)
    assert compare.main(["trial"]) == 2
    printed = capfd.readouterr()
    assert "'trial-large'" in printed.err
    assert not rows(printed.out)
    assert (
        "trial"
        not in subprocess.run(
            [sys.executable, "-m", "dvc", "queue", "status"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_a_killed_worker_is_an_error_and_the_next_run_continues(
    recipe_project: None,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiments, "START_S", 30.0)
    Path("train.py").write_text(f"{WAITS.format(folder=str(tmp_path))}{TRAIN}")
    Path("flows/recipes/trial.yaml").write_text(
        "cells:\n  some: {train.curriculum.1.steps: 7}\n  more: {train.curriculum.1.steps: 3}\n"
    )
    subprocess.run(["git", "commit", "-qam", "waits"], check=True)

    def kill() -> None:
        while not (tmp_path / "at-work").exists():
            time.sleep(0.5)
        time.sleep(15)  # until the flow has had an answer of the worker
        for process_id in [
            *processes("queue-worker", str(tmp_path / "work")),
            *processes("train.py", str(tmp_path / "work")),
        ]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert compare_recipe() == 75
    killer.join()
    assert "'trial-" in capfd.readouterr().err
    assert "Running" not in experiments.list_unfinished().values()

    assert compare_recipe() == 0
    assert rows(capfd.readouterr().out) == {
        "trial-some": ["done", "7.00"],
        "trial-more": ["done", "3.00"],
    }
