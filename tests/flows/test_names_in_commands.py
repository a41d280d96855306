"""DVC puts values of ``params.yaml`` into commands that a shell runs: none runs one of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import NAMES, read_params

from .conftest import ROOT, Project

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def parameters(stage: dict[str, Any]) -> list[str]:
    """Keys of catalogue files that a stage depends on."""
    files = [item for item in stage.get("params", []) if isinstance(item, dict)]
    return [key for file in files for keys in file.values() for key in keys]


@pytest.mark.parametrize("name", STAGES)
def test_a_value_in_a_command_is_a_key_that_the_catalogue_must_have(name: str) -> None:
    stage = STAGES[name]
    values = set(re.findall(r"\$\{(.*?)\}", str(stage["cmd"])))
    from_here = {f"item.{key}" for key in stage.get("matrix", {})}  # written out in dvc.yaml
    keys = parameters(stage)
    for value in values - from_here:
        assert value in NAMES, "a name of an entry is checked, other values are not"
        assert any(key == f"${{{value}}}" or key.startswith(f"${{{value}}}.") for key in keys)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_a_command_in_it_runs_nothing(name: str, project: Project) -> None:
    folder = project()
    shutil.copytree(ROOT / "catalogue", folder / "catalogue")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    separated = f"{raw[name]}; touch ran.txt #"
    (folder / "params.yaml").write_text(yaml.safe_dump({**raw, name: separated}))
    stage = {**STAGES["report"], "deps": []}  # all four names are in its command
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"report": stage}}))
    command = [sys.executable, "-m", "dvc", "repro"]
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode != 0
    assert separated in stopped.stderr
    assert not (folder / "ran.txt").exists()
    with pytest.raises(InputError) as caught:
        read_params()
    assert caught.value.subject == name


def test_entries_and_sources_have_names_that_are_safe_in_commands_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("catalogue").mkdir()
    for entry in ("a; touch b", "a.b", "$(touch b)", "a\nb"):
        Path("catalogue/corpus.yaml").write_text(yaml.safe_dump({"spoken": {}, entry: {}}))
        with pytest.raises(InputError) as stopped:
            catalogue.corpus("spoken")
        assert stopped.value.subject == entry
    for source in ("../models", "/tmp/a", ".git", "a\nb", ""):
        corpus = {"spoken": {"train": {source: {"kind": "table"}}}}
        Path("catalogue/corpus.yaml").write_text(yaml.safe_dump(corpus))
        with pytest.raises(InputError) as stopped:
            catalogue.corpus("spoken")
        assert stopped.value.subject == source
