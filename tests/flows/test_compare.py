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
if params["llm"] == "phi-tiny" and not os.path.exists(os.path.join(os.environ["DVC_ROOT"], "mended")):
    print("train: this LLM does not fit")
    sys.exit(2)
os.makedirs("metrics", exist_ok=True)
stages = params["train"]["curriculum"]
assert [each["freeze"] for each in stages] in ([[], []], [[], ["*.layers.[0-1].*"], []]), stages
json.dump({"test": {"free": {"wer": sum(each["steps"] for each in stages[1:]) / 100}}}, open("metrics/score.json", "w"))
if params["train"]["seed"] > 1:  # the errors of its utterances: ten of each hundred words a step
    import pyarrow as pa, pyarrow.parquet as pq
    os.makedirs("data/score", exist_ok=True)
    wrong = stages[1]["steps"] * 10
    rows = [{"set": "test", "role": "test", "system": "free", "id": str(n), "speaker": str(n % 9), "substitutions": wrong + n % 3,
             "deletions": 0, "insertions": 0, "words": 100} for n in range(90)]
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
      - &stage {name: one, steps: 5, tune: [projector], learning_rate: 0.0001, warmup: 1, decay: constant, nonspeech_share: 0.0, freeze: []}
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
    (folder / "flows/recipes/trial.yaml").write_text(RECIPE)
    for command in ("git add -A", "git commit -qm all"):
        subprocess.run(command.split(), check=True)


def rows(text: str) -> dict[str, list[str]]:
    lines = [re.split(" {2,}", line) for line in text.splitlines() if line.startswith("trial-")]
    return {name: rest for name, *rest in lines}


def test_one_worker_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert compare.devices(0) == ["4", "5"]
    assert compare.devices(3) == ["4", "5", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (compare.devices(0), compare.devices(2)) == ([""], ["", ""])


def test_a_failing_cell_is_one_failed_row(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["trial"]) == 1
    found = rows(capfd.readouterr().out)
    assert found["trial-some"] == ["done", "7.00", "6.50"]
    assert found["trial-more"] == ["done", "8.00", "-"]
    assert found["trial-broken"] == ["failed: train: this LLM does not fit", "-"]

    # Again: what is done is taken as it is, what failed is tried again.
    before = experiments.results()["trial-some"]
    Path("mended").touch()
    assert compare.main(["trial"]) == 0
    found = rows(capfd.readouterr().out)
    assert (found["trial-some"], found["trial-broken"]) == (
        ["done", "7.00", "6.50"],
        ["done", "650.00", "-"],
    )
    assert experiments.results()["trial-some"] == before

    # Just one, and anew: it takes the place of the one before.
    assert compare.main(["trial", "--only", "some", "--again"]) == 0
    assert rows(capfd.readouterr().out) == {"trial-some": ["done", "7.00", "6.50"]}
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(listed.stdout.split()) == ["trial-broken", "trial-more", "trial-some"]
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, check=True
        ).stdout
    )
    assert not subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, check=True
    ).stdout, "the workspace is as it was"
    assert shown[0]["rev"] == "workspace"


def test_cells_of_several_seeds_come_as_mean_and_range_too(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("train.py").write_text(
        TRAIN.replace("/ 100}}", '/ 100 + params["train"]["seed"] / 1000}}')
    )
    Path("flows/recipes/trial.yaml").write_text(
        "grid:\n  train.seed: [1, 3]\n  steps: {few: {train.curriculum.1.steps: 2}, more: "
        "{train.curriculum.1.steps: 5}}\n"
    )
    assert compare.main(["trial"]) == 0
    printed = capfd.readouterr().out
    assert "trial-few    2      test  free    2.20 (2.10–2.30)" in printed
    assert "trial-more   2      test  free    5.20 (5.10–5.30)" in printed


def test_the_first_cell_is_what_the_others_stand_against(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("flows/recipes/trial.yaml").write_text(
        "cells:\n  base: {train.seed: 2, train.curriculum.1.steps: 3}\n  broken: {llm: phi-tiny}\n"
        "  better: {train.seed: 2, train.curriculum.1.steps: 2}\n  silent: {train.curriculum.1.steps: 2}\n"
    )
    assert compare.main(["trial"]) == 1
    printed = capfd.readouterr().out
    assert "Against trial-base, in percent points" in printed
    assert re.search(
        r"^trial-better +test +free +-10\.00 \(-10\.00 to -10\.00\) +0\.0000 +\*$",
        printed,
        re.MULTILINE,
    )
    assert "trial-broken  test" not in printed, "a failed cell has a failed row and nothing else"
    assert re.search(r"nothing to compare, of: trial-silent$", printed, re.MULTILINE)


def test_what_will_not_do_is_said_before_anything_is_queued(
    recipe_project: None, capfd: pytest.CaptureFixture[str]
) -> None:
    huge = "cells:\n  some: {}\n  huge: {corpus: mls, encoder: hubert-xlarge, projector: linear}\n"
    Path("flows/recipes/trial.yaml").write_text(huge)
    assert compare.main(["trial"]) == 2
    printed = capfd.readouterr()
    assert "'trial-huge'" in printed.err
    assert "too small" in printed.err
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


def test_a_killed_worker_is_told_and_the_next_run_goes_on(
    recipe_project: None,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiments, "STARTED", 30.0)
    Path("train.py").write_text(f"{WAITS.format(folder=str(tmp_path))}{TRAIN}")
    Path("flows/recipes/trial.yaml").write_text(
        "cells:\n  some: {train.curriculum.1.steps: 7}\n  more: {train.curriculum.1.steps: 3}\n"
    )
    subprocess.run(["git", "commit", "-qam", "waits"], check=True)

    def kill() -> None:
        while not (tmp_path / "at-work").exists():
            time.sleep(0.5)
        time.sleep(15)  # until the flow has seen the worker answer
        for number in [
            *processes("queue-worker", str(tmp_path / "work")),
            *processes("train.py", str(tmp_path / "work")),
        ]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert compare.main(["trial"]) == 75
    killer.join()
    assert "worker was killed" in capfd.readouterr().err
    assert "Running" not in experiments.waiting().values()

    assert compare.main(["trial"]) == 0
    assert rows(capfd.readouterr().out) == {
        "trial-some": ["done", "7.00"],
        "trial-more": ["done", "3.00"],
    }
