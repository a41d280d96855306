"""Files that Git does not have are named before a flow or an experiment runs without them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows import trial
from flows.clone import clone_workspace
from flows.untracked import list_untracked_inputs

from .conftest import Project

STAGES = {
    "score": {
        "cmd": "ls data/systems > score",
        "deps": ["data/systems", "data/scans/${corpus}/x"],
        "params": [{"names.yaml": ["a"]}],
        "outs": ["score"],
    }
}
TEXTS = Path("data/systems/other/free.tsv")


@pytest.fixture
def workspace(project: Project) -> Path:
    folder = project(STAGES)
    for path in (TEXTS, Path("data/systems/one/free.tsv"), Path("data/scans/spoken/x/a.json")):
        path.parent.mkdir(parents=True)
        path.write_text("id\ttext\n")
    (folder / ".gitignore").write_text("score\n*.bak\n")
    Path("data/systems/old.bak").write_text("ignored on purpose")
    Path("unrelated").write_text("no stage reads it")
    (folder / "params.yaml").write_text("corpus: spoken\n")
    subprocess.run(["git", "add", "data/systems/one", "params.yaml"], check=True)
    return folder


def test_a_clone_names_what_it_has_not(workspace: Path) -> None:
    assert list_untracked_inputs() == ["data/scans/spoken/x/a.json", str(TEXTS)]
    subprocess.run(["git", "commit", "-qm", "one"], check=True)
    lines: list[str] = []
    with clone_workspace(lines.append):
        assert not TEXTS.exists()
    assert any(str(TEXTS) in line for line in lines)
    subprocess.run(["git", "add", "data"], check=True)
    subprocess.run(["git", "commit", "-qm", "all"], check=True)
    lines.clear()
    with clone_workspace(lines.append):
        assert TEXTS.exists()
    assert not any(str(TEXTS) in line for line in lines)


def test_an_experiment_names_what_it_has_not(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "call_dvc", lambda *_: 1)  # nothing of the stages matters here
    assert trial.run_experiment(["corpus=spoken"], []) == 1
    assert str(TEXTS) in capsys.readouterr().err
