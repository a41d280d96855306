"""The smoke run: once a session, in a workspace that the tests copy before they change it."""

from __future__ import annotations

import pytest

from .project import Project, create_project


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace in which all stages have run at smoke size; copy it, do not change it."""
    folder = tmp_path_factory.mktemp("smoke")
    project = create_project(folder / "project", folder / "work")
    project.output = project.dvc("repro")  # type: ignore[attr-defined]
    return project
