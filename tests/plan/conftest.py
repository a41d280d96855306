"""Fixtures of the plan's tests: one work cache for all of them, and a machine that is not this
one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from components.plan.machine import Disk, Machine

TB = 1e12


@pytest.fixture(scope="session")
def plan_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work cache in which each network is counted once."""
    return tmp_path_factory.mktemp("plan-work")


@pytest.fixture(autouse=True)
def settings(plan_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU, an empty cache of the hub, and a work cache that only these tests use."""
    monkeypatch.setenv("LIBRETTO_WORK", str(plan_cache))
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A large machine whose outputs are in one folder, without a copy."""
    return Machine("large machine", 1 * TB, 2, (tmp_path,), (Disk((Path("/"),), 1_000 * TB),))
