"""Fixtures for all tests: a work cache of their own, and real recordings where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work cache."""
    folder = tmp_path / "work"
    monkeypatch.setenv("LIBRETTO_WORK", str(folder))
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings (its README says what is in it); the test is skipped where there is none."""
    folder = Path(os.environ.get("LIBRETTO_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"recordings are not there: {folder}; LIBRETTO_TEST_DATA names another folder")
    return folder
