"""requirements.lock and pyproject.toml name the same versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = [
    *PROJECT["dependencies"],
    *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
]


def locked() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return dict(normal(line) for line in lines)


def normal(requirement: str) -> tuple[str, str]:
    name, version = re.sub(r"\[.*\]", "", requirement).split("==")  # moto[server] is moto
    return re.sub(r"[-_.]+", "-", name).lower(), version


@pytest.mark.parametrize("requirement", PINNED)
def test_every_direct_dependency_is_locked_at_its_pin(requirement: str) -> None:
    name, version = normal(requirement)
    assert locked().get(name) == version


def test_lock_holds_plain_versions_only() -> None:
    for name, version in locked().items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9][A-Za-z0-9.]*", version), (
            f"{name}=={version}: a build tag or an address is of one machine only"
        )
