"""The smoke run: made once a session, in a workspace that the tests copy before they change it."""

from __future__ import annotations

import pytest

from .project import Project, make_project


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace in which the whole pipeline has run at smoke size. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("smoke")
    project = make_project(folder / "project", folder / "work")
    project.output = project.dvc("repro")  # type: ignore[attr-defined]
    return project
