"""Experiments of a small project for real: in a copy, shown in one table, and the workspace after
one that failed or was killed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.config.errors import InputError
from flows import compare_options, restoration
from flows.overview import format_overview
from flows.trial import name_experiment
from libretto.commands import run_command

from .conftest import ROOT, Project

pytestmark = pytest.mark.slow

# A stage for the LLM, and one that fails or ends DVC itself as the spike says.
LLM = """
import pathlib, sys
pathlib.Path("models").mkdir(exist_ok=True)
pathlib.Path("models/llm").write_text(sys.argv[1])
"""
TRAIN = """
import json, os, pathlib, signal, sys, yaml
train = yaml.safe_load(open("params.yaml"))["train"]
if train["spike"] == 7:
    sys.exit(2)
if train["spike"] == 9:
    os.killpg(0, signal.SIGKILL)
llm = pathlib.Path("models/llm").read_text()
pathlib.Path("models/bridge").write_text(llm)
pathlib.Path("metrics").mkdir(exist_ok=True)
figures = {"free": {"wer": len(llm) / 100}, "ctc": {"wer": train["seed"] / 100}}
pathlib.Path("metrics/score.json").write_text(json.dumps({"speech": figures}))
"""
STAGES = {
    "llm": {
        "cmd": "python llm.py ${llm}",
        "params": [{"catalogue/llm.yaml": ["${llm}.source"]}],
        "outs": ["models/llm"],
    },
    "train": {
        "cmd": "python train.py",
        "params": ["train"],
        "deps": ["models/llm"],
        "outs": ["models/bridge"],
        "metrics": [{"metrics/score.json": {"cache": False}}],
    },
}


def dvc(*arguments: str) -> int:
    """In a process group of its own, which a stage may kill."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, start_new_session=True).returncode


@pytest.fixture
def finished(project: Project) -> Path:
    """A project whose stages have run, with its result committed."""
    folder = project(STAGES)
    (folder / ".gitignore").write_text("/models\n")
    shutil.copytree(ROOT / "catalogue", folder / "catalogue")
    shutil.copytree(ROOT / "flows/recipes", folder / "flows/recipes")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "llm.py").write_text(LLM)
    (folder / "train.py").write_text(TRAIN)
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "all"], check=True)
    assert dvc("repro") == 0
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "result"], check=True)
    return folder


def state() -> tuple[str, str, str, str]:
    """Parameters, lock, models and what Git has to say."""
    models = "".join(path.read_text() for path in sorted(Path("models").glob("*")))
    status = subprocess.run(["git", "status", "--short"], capture_output=True, text=True)
    return Path("params.yaml").read_text(), Path("dvc.lock").read_text(), models, status.stdout


@pytest.mark.parametrize(
    "assignments",
    [["llm=ph-2"], ["llm=phi-tiny", "train.spike=7"], ["llm=phi-tiny", "train.spike=9"]],
    ids=["mistyped", "failed", "killed"],
)
def test_a_stopped_experiment_is_undone_by_one_command(
    assignments: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state()
    assert dvc("exp", "run", *[part for item in assignments for part in ("-S", item)]) != 0
    changed = Path("params.yaml").read_text()
    assert state() != before and changed != before[0]
    assert run_command(["restore"]) == 0
    assert state() == before
    saved = [path for path in (finished.parent / "work/replaced").iterdir()]
    assert [path.read_text() for path in saved] == [changed]
    assert str(saved[0]) in capsys.readouterr().out


def test_parameters_of_a_recipe_that_is_not_committed_come_back(finished: Path) -> None:
    assert run_command(["use", "smoke"]) == 0
    before = state()
    assert dvc("exp", "run", "-S", "llm=ph-2") != 0
    restoration.restore_params()
    assert state()[0] == before[0]


def test_what_the_cache_lacks_is_named_and_nothing_is_computed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("models")
    assert run_command(["restore"]) == restoration.INCOMPLETE
    assert "llm, train" in capsys.readouterr().out
    assert not Path("models").exists()


def test_an_experiment_in_a_copy_leaves_the_workspace_alone(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = state()
    assert run_command(["run", "--no-plan", "-S", "llm=ph-2"]) == 2
    assert "'phi-2'" in capfd.readouterr().err
    assert run_command(["run", "--no-plan", "-S", "llm=phi-tiny", "-S", "train.spike=7"]) != 0
    assert state() == before
    assert run_command(["run", "--no-plan", "-S", "llm=phi-tiny", "-S", "train.seed=3"]) == 0
    assert state() == before
    assert run_command(["run", "--no-plan", "-S", "train.seed=4"]) == 0
    capfd.readouterr()
    assert compare_options.main(["--show"]) == 0
    header, *rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert header == ["experiment", "changes", "speech"]
    cells = {row[0]: " ".join(row[1:]) for row in rows[:3]}
    assert cells["workspace"].split("  ")[-1] == "10.00 / 1.00"
    assert cells["llm-phi-tiny-train-seed-3"] == "llm=phi-tiny train.seed=3 8.00 / 3.00"
    assert cells["train-seed-4"] == "train.seed=4 10.00 / 4.00"
    assert "10.00 / 4.00" not in format_overview(["llm-phi-tiny-train-seed-3"])
    assert "10.00" not in format_overview(system="ctc")
    for arguments, subject in (({"names": ["seed-4"]}, "seed-4"), ({"system": "fre"}, "fre")):
        with pytest.raises(InputError) as raised:
            format_overview(**arguments)
        assert raised.value.subject == subject


def test_experiments_have_names_of_their_own() -> None:
    assert name_experiment(["llm=phi-2"], []) == "llm-phi-2"
    assert name_experiment(["llm=phi-2"], ["llm-phi-2", "llm-phi-2-2"]) == "llm-phi-2-3"
    assert name_experiment(["train.curriculum.0.steps=5"], []) == "train-curriculum-0-steps-5"
    assert name_experiment(["a=[1, 2]"], []) == "a-1-2"
