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


LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-cpu.lock")


def entries(name: str) -> list[list[str]]:
    """A requirement and its options, for each distribution of a lock."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def locked() -> dict[str, str]:
    """Versions of an environment with the torch of a package index."""
    return dict(normal(requirement) for lock in LOCKS[:2] for requirement, *_ in entries(lock))


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


def test_both_builds_of_torch_have_one_version() -> None:
    ((requirement, *_),) = entries("requirements-cpu.lock")
    assert requirement == f"torch=={locked()['torch']}+cpu"


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_has_a_hash(name: str) -> None:
    """pip then refuses a file that differs, and any distribution that is not here."""
    for requirement, *options in entries(name):
        assert options, requirement
        for option in options:
            assert re.fullmatch("--hash=sha256:[0-9a-f]{64}", option), requirement
