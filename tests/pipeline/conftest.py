"""The smoke run: once for all processes of a test run, in a workspace that the tests copy before
they change it.
"""

from __future__ import annotations

import os
import shutil

import pytest

from components.runtime.unit_cache import lock

from .project import Project, create_project


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace in which all stages have run at smoke size; copy it, and run and change the
    copy: other processes read this one.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes' folders are side by side
        root = root.parent
    folder = root / "smoke"
    with lock(folder):  # whoever comes first runs the stages, and the others wait
        if not (folder / "finished").exists():
            shutil.rmtree(folder, ignore_errors=True)
            create_project(folder / "project", folder / "work").dvc("repro")
            (folder / "finished").touch()
    return Project(folder / "project", folder / "work")
