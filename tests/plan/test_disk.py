"""Copies are counted as the disks make them, and a disk that is too small stops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components.config.errors import InputError
from components.config.params import read_params
from components.plan import disk
from components.plan.disk import DiskSpace, DiskUse, check_space, sum_by_disk
from components.plan.machine import (
    Disk,
    Machine,
    can_clone,
    can_link,
    find_output_folders,
    read_machine,
)
from components.plan.networks import CheckpointFiles
from components.plan.run import plan_run
from tests.conftest import REPOSITORY

SHARED_MEMORY = Path("/dev/shm")  # a disk of its own on most Linux machines


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
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk; the test is skipped where there is none."""
    folder = SHARED_MEMORY / f"libretto-{os.getpid()}"
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not a disk of its own here")
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_links_are_tried_and_leave_no_file(tmp_path: Path, other_disk: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    assert can_link(source, target)
    assert not can_link(source, other_disk)
    assert not [*source.iterdir(), *target.iterdir(), *other_disk.iterdir()]


@pytest.mark.parametrize(
    "link_types", ["reflink,hardlink,symlink,copy", "hardlink,reflink,symlink,copy", "copy"]
)
def test_as_many_copies_as_dvc_makes_on_one_disk(
    project: Path, work: Path, link_types: str
) -> None:
    """Counted in files of the disk, after a stage that hard-links its output from the work cache as
    stages do.
    """
    if can_clone(project, project):
        pytest.skip("clones share their blocks, which no count of files shows")
    subprocess.run([sys.executable, "-m", "dvc", "config", "cache.type", link_types], check=True)
    folders = find_output_folders()
    work.mkdir(exist_ok=True)
    (work / "unit").write_bytes(os.urandom(1000))
    (work / "unit").chmod(0o444)
    (project / "dvc.yaml").write_text(
        f"stages: {{one: {{cmd: mkdir out && ln {work}/unit out/unit, outs: [out]}}}}\n"
    )
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True)
    paths = [*work.iterdir(), *project.glob("out/*"), *project.glob(".dvc/cache/files/md5/*/*")]
    sizes = [path.stat() for path in paths if path.is_file()]
    assert len({status.st_ino for status in sizes if status.st_size == 1000}) == len(folders)


def test_link_types_and_cache_are_dvcs_own_where_none_are_configured(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    if can_clone(tmp_path, tmp_path):
        pytest.skip("a disk that clones makes no copies")
    assert find_output_folders() == (tmp_path, tmp_path / ".dvc", tmp_path)  # reflink, else copy


def test_a_folder_without_dvc_stops(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        find_output_folders()
    assert caught.value.subject == str(tmp_path / ".dvc")
    assert caught.value.hint


def test_a_work_cache_on_another_disk_is_a_second_copy(
    project: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORK", str(other_disk / "work"))
    assert find_output_folders() == (other_disk, project / ".dvc")


def test_a_dvc_cache_on_another_disk_is_a_second_copy(project: Path, other_disk: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir", str(other_disk)],
        check=True,
        capture_output=True,
    )
    assert find_output_folders() == (project, other_disk)  # the workspace has symbolic links
    subprocess.run([sys.executable, "-m", "dvc", "config", "cache.type", "copy"], check=True)
    assert find_output_folders() == (project, other_disk, project)


def test_a_machine_knows_the_disk_of_a_folder_that_does_not_exist_yet(
    tmp_path: Path, other_disk: Path
) -> None:
    machine = read_machine([tmp_path / "not" / "yet"], [other_disk / "neither"])
    assert [disk.folders for disk in machine.disks] == [(tmp_path,), (other_disk,)]
    assert machine.disk_of(other_disk / "neither" / "below").folders == (other_disk,)
    assert all(disk.free_bytes > 0 for disk in machine.disks)


def test_bytes_add_up_by_disk(machine: Machine) -> None:
    small, large = Disk((Path("/a"), Path("/a/b/c")), 1.0), Disk((Path("/a/b"),), 2.0)
    uses = [
        DiskUse("one", 100, (Path("/a/x"), Path("/a/b/x"))),
        DiskUse("two", 10, (Path("/a/b/c/x"),)),
    ]
    assert sum_by_disk(uses, replace(machine, disks=(small, large))) == [
        DiskSpace(Path("/a"), 110, 1.0),
        DiskSpace(Path("/a/b"), 100, 2.0),
    ]


def test_a_local_checkpoint_is_counted_in_the_work_cache_and_a_hub_one_is_linked(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the user are copied, whatever can be linked."""
    for name in ("models", "hub"):
        (tmp_path / name).mkdir()
    work.mkdir(exist_ok=True)
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(disk, "hub_folder", lambda: tmp_path / "hub")
    folders = (work, tmp_path)
    own = CheckpointFiles("llm", "llm 'mine'", "", (), "", 5, 0)
    assert disk._checkpoint_folders(own, folders) == folders[can_clone(tmp_path, work) :]
    published = replace(own, repo="somebody/llm")
    assert disk._checkpoint_folders(published, folders) == folders[1:]


def test_a_disk_that_is_too_small_stops(tmp_path: Path) -> None:
    check_space([DiskSpace(tmp_path, 5, 5)])
    with pytest.raises(InputError) as caught:
        check_space([DiskSpace(Path("/large"), 1, 5), DiskSpace(tmp_path, 6e9, 5e9)])
    assert caught.value.subject == str(tmp_path)
    assert "6.0 GB" in str(caught.value)
    assert "5.0 GB" in str(caught.value)
    assert caught.value.hint


def test_the_embedded_run_needs_what_its_lock_records(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the sizes that DVC recorded of the real outputs."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: {})
    plan = plan_run(read_params(), machine=machine)
    planned = {use.name: use.num_bytes for use in plan.disk_uses}
    lock = yaml.safe_load((REPOSITORY / "dvc.lock").read_text())["stages"]
    for stage, role in [
        ("shards", "train"),
        ("features", "train"),
        ("features", "dev"),
        ("shards", "test"),
    ]:
        recorded = lock[f"{stage}@{role}"]["outs"][0]["size"]
        assert planned[f"{stage}, {role}"] == pytest.approx(recorded, rel=0.2), (stage, role)
