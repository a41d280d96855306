"""The scripts of ``examples/`` at smoke size."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .project import Project


@pytest.mark.slow
def test_a_folder_of_recordings_gives_a_word_error_rate(smoke: Project, tmp_path: Path) -> None:
    project = smoke.copy(tmp_path / "project")
    done = project.run(sys.executable, "examples/own_recordings.py", PYTHONPATH=str(project.folder))
    rates = re.search(r"WER ([0-9.]+) % of (\d+) words", done.stdout)
    assert rates
    assert int(rates[2]) == 27
    assert done.stdout.count("hypothesis:") == 4


@pytest.mark.slow
def test_two_llms_are_compared(smoke: Project, tmp_path: Path) -> None:
    project = smoke.copy(tmp_path / "project")
    project.run("git", "add", "-A")
    done = project.run(sys.executable, "examples/compare_llms.py", "llama-smoke", "phi-smoke")
    assert "compare-llama-smoke" in done.stdout
    assert "compare-phi-smoke" in done.stdout
    assert "Against compare-llama-smoke" in done.stdout
