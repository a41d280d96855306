"""One flipped bit in an output, in a real project: by hard links it is in the workspace, in DVC's
cache and in the work cache. The commands that messages name give the right bytes again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from components.runtime.dvc_cache import is_object_intact, list_objects
from tests.damage import flip_bit

from .project import Project, create_project, digest

pytestmark = pytest.mark.slow
SHARDS = "data/shards/dev"
TARGET = "shards@dev"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose dev role has its shards."""
    root = tmp_path_factory.mktemp("damage")
    project = create_project(root / "project", root / "work")
    project.dvc("repro", TARGET)
    return project


@pytest.fixture
def tar(shards: Project) -> Path:
    """The tar of the role; a linked output as DVC and the work cache have it."""
    path = next((shards.folder / SHARDS).glob("*/*.tar"))
    assert path.stat().st_nlink == 3
    return path


def check_all(shards: Project, tar: Path, right: str) -> None:
    """The bytes are right everywhere, and the record states their digests."""
    assert digest(tar) == right
    outputs = json.loads((shards.folder / SHARDS / "inputs.json").read_text())["outputs"]
    assert {name: digest(shards.folder / SHARDS / name) for name in outputs} == outputs
    assert all(map(is_object_intact, list_objects(shards.folder / ".dvc/cache")))
    for unit in shards.work.glob("shards/??/*/unit.json"):
        files = json.loads(unit.read_text())["files"]
        assert {name: digest(unit.parent / name) for name in files} == {
            name: stated for name, (_, stated) in files.items()
        }


def clean(shards: Project) -> int:
    command = (sys.executable, "-m", "components.clean", "--verify")
    return shards.run(*command, check=False).returncode


def test_forcing_the_stage_gives_right_bytes_everywhere(shards: Project, tar: Path) -> None:
    """DVC alone would put its damaged object in the place of the new tar."""
    right = digest(tar)
    flip_bit(tar)
    output = shards.dvc("repro", "-f", "-s", TARGET)
    assert str(tar.name) in output
    check_all(shards, tar, right)
    assert clean(shards) == 0


@pytest.mark.parametrize("name", ["tar", "index.parquet", "inputs.json"])
def test_verify_and_repro_give_right_bytes_everywhere(
    shards: Project, tar: Path, name: str
) -> None:
    """Also of files that no unit has, and although a unit was right when it was last taken."""
    shards.dvc("repro", "-f", "-s", TARGET)
    file = {"tar": tar, "index.parquet": tar.with_name("index.parquet")}.get(
        name, shards.folder / SHARDS / "inputs.json"
    )
    right, right_file = digest(tar), digest(file)
    flip_bit(file)
    assert clean(shards) == 1
    shards.dvc("repro", TARGET)
    assert digest(file) == right_file
    check_all(shards, tar, right)
    assert clean(shards) == 0


def test_a_damaged_copy_of_the_workspace_is_replaced(shards: Project, tar: Path) -> None:
    """Where there are no links; DVC, which looks at times, would say that nothing has changed."""
    right, data, times = digest(tar), tar.read_bytes(), tar.stat()
    tar.unlink()
    tar.write_bytes(data)
    shards.dvc("status", TARGET)  # DVC reads it while it is right
    flip_bit(tar)
    assert clean(shards) == 1
    shards.dvc("repro", TARGET)
    check_all(shards, tar, right)
    assert times.st_size == tar.stat().st_size
