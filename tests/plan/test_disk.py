"""Copies are counted as the disks really make them, and a disk that is too small stops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.config.errors import InputError
from components.plan.disk import Room, Written, check, clones, links, output_places, rooms
from components.plan.run import Plan, plan_of
from tests.conftest import REPOSITORY

SHARED_MEMORY = Path("/dev/shm")  # a disk of its own on every Linux


@pytest.fixture
def project(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DVC project, entered, with its link types as the committed ones."""
    monkeypatch.chdir(tmp_path)
    for command in (
        ["init", "--no-scm", "-q"],
        ["config", "cache.type", "hardlink,reflink,symlink,copy"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    return tmp_path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder on another disk."""
    folder = SHARED_MEMORY / f"libretto-{os.getpid()}"
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("/dev/shm is no disk of its own here")
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_links_are_tried_and_leave_nothing(tmp_path: Path, elsewhere: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert links(one, other)
    assert not links(one, elsewhere)
    assert not [*one.iterdir(), *other.iterdir(), *elsewhere.iterdir()]


@pytest.mark.parametrize(
    "types", ["reflink,hardlink,symlink,copy", "hardlink,reflink,symlink,copy", "copy"]
)
def test_as_many_copies_as_dvc_makes_on_one_disk(project: Path, work: Path, types: str) -> None:
    """Counted in blocks of the disk, after a stage that hard-links its output from the work cache
    as ``place`` does.
    """
    if clones(project, project):
        pytest.skip("clones share their blocks, which no count of files shows")
    subprocess.run([sys.executable, "-m", "dvc", "config", "cache.type", types], check=True)
    places = output_places()
    work.mkdir(exist_ok=True)
    (work / "unit").write_bytes(os.urandom(1000))
    (work / "unit").chmod(0o444)
    (project / "dvc.yaml").write_text(
        f"stages: {{one: {{cmd: mkdir out && ln {work}/unit out/unit, outs: [out]}}}}\n"
    )
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    files = [
        path
        for path in (
            *work.iterdir(),
            *project.glob("out/*"),
            *project.glob(".dvc/cache/files/md5/*/*"),
        )
        if path.is_file()
    ]
    assert len({path.stat().st_ino for path in files if path.stat().st_size == 1000}) == len(places)


def test_a_work_cache_on_another_disk_is_a_second_copy(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORK", str(elsewhere / "work"))
    assert output_places() == (elsewhere, project / ".dvc")


def test_a_dvc_cache_on_another_disk_is_a_second_copy(project: Path, elsewhere: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir", str(elsewhere)],
        check=True,
        capture_output=True,
    )
    assert output_places() == (project, elsewhere)  # the workspace holds symbolic links
    subprocess.run([sys.executable, "-m", "dvc", "config", "cache.type", "copy"], check=True)
    assert output_places() == (project, elsewhere, project)


def test_what_is_needed_adds_up_by_disk(tmp_path: Path, elsewhere: Path) -> None:
    found = rooms(
        [Written("a", 100, (tmp_path, elsewhere)), Written("b", 10, (tmp_path / "not" / "yet",))]
    )
    assert {room.disk: room.needed for room in found} == {tmp_path: 110, elsewhere: 100}
    assert all(room.free > 0 for room in found)


def test_a_disk_that_is_too_small_stops(tmp_path: Path) -> None:
    check([Room(tmp_path, 5, 5)])
    with pytest.raises(
        InputError, match=r"too small: 6\.0 GB will be written, 5\.0 GB are free.*features\.mode"
    ):
        check([Room(tmp_path, 1, 5), Room(tmp_path, 6e9, 5e9)])


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, work: Path) -> Plan:
    from components.config.params import read_params

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: {})
    return plan_of(read_params())


def test_the_embedded_run_needs_what_its_lock_says(embedded: Plan) -> None:
    """Against the sizes that DVC recorded of the real outputs."""
    import yaml

    lock = yaml.safe_load((REPOSITORY / "dvc.lock").read_text())["stages"]
    planned = {each.what: each.bytes for each in embedded.written}
    for stage, role in [
        ("shards", "train"),
        ("features", "train"),
        ("features", "dev"),
        ("shards", "test"),
    ]:
        real = lock[f"{stage}@{role}"]["outs"][0]["size"]
        assert planned[f"{stage}, {role}"] == pytest.approx(real, rel=0.2), (stage, role)
