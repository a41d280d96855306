"""The DAG is DVC's alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.config.errors import InputError
from flows import dag

from .conftest import ROOT, Project


def test_order_is_that_of_dvc_repro(project: Project, notes: Callable[[], list[str]]) -> None:
    project()
    planned = [stage.replace("@", "-") for stage in dag.list_stages()]
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    assert planned == notes()


def test_targets_include_what_they_depend_on(project: Project) -> None:
    project()
    assert dag.list_stages(["b@y"]) == ["a", "b@y"]
    assert set(dag.list_stages(["b"])) == {"a", "b@x", "b@y"}
    assert dag.list_stages(["side"]) == ["a", "side"]


def test_unknown_target_names_the_nearest(project: Project) -> None:
    project()
    with pytest.raises(InputError) as caught:
        dag.list_stages(["scor"])
    assert caught.value.subject == "scor"
    assert "'score'" in caught.value.hint


def test_changed_parameters_are_those_of_the_lock(project: Project) -> None:
    folder = project({"a": {"cmd": "echo ${seed} > a", "params": ["seed", "net"], "outs": ["a"]}})
    lock = folder / "params.yaml"
    lock.write_text("seed: 1\nnet: {width: 8, depth: 2}\n")
    assert dag.read_parameters() == {}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    before = dag.read_parameters()
    lock.write_text("seed: 1\nnet: {width: 16, heads: 4}\n")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    rows = {
        row["parameter"].removeprefix("params.yaml: "): (row["before"], row["now"])
        for row in dag.list_changes(before, dag.read_parameters())
    }
    assert rows == {"net.width": ("8", "16"), "net.depth": ("2", "-"), "net.heads": ("-", "4")}
    assert dag.list_changes({}, dag.read_parameters()) == [], "there was no run before"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "components").rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_components_never_import_prefect(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] in ("prefect", "flows")], (
            f"{path}:{getattr(node, 'lineno', '')}"
        )
