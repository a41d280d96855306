"""The how-to guides: their diffs apply to this tree, and what they run there passes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import copy_checkout
from tests.conftest import REPOSITORY

from .markdown import blocks

GUIDES = sorted(
    path for path in (REPOSITORY / "docs/howto").glob("*.md") if path.name != "index.md"
)


def name_of(guide: Path) -> str:
    return guide.stem


def patch_of(guide: Path) -> str:
    """All diffs of a guide as one patch."""
    return "".join(block.text for block in blocks(guide) if block.language == "diff")


def git_apply(guide: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "apply", *options],
        input=patch_of(guide),
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_the_diffs_of_a_guide_apply(guide: Path) -> None:
    done = git_apply(guide, REPOSITORY, "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_what_a_guide_adds_passes_what_the_guide_runs(guide: Path, tmp_path: Path) -> None:
    folder = copy_tree(tmp_path / "tree")
    assert git_apply(guide, folder).returncode == 0
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "LIBRETTO_WORK": str(tmp_path / "work"),
        "OMP_NUM_THREADS": "1",
    }
    lines = [
        line
        for block in blocks(guide)
        if block.language == "bash"
        for line in block.text.splitlines()
    ]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        program = {"libretto": ["-m", "libretto"], "python": []}[words[0]]
        done = subprocess.run(
            [sys.executable, *program, *words[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def copy_tree(folder: Path) -> Path:
    """A copy of the files that Git tracks or would track, as a repository of its own."""
    copy_checkout(folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder
