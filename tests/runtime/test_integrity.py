"""Damaged units and folders are noticed when they are taken, and only then read again when a file
has changed.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.runtime import integrity
from components.runtime import unit_cache as cache
from components.runtime.artifact import checked_digests, write_record
from components.runtime.dvc_cache import is_object_intact, list_objects
from components.runtime.unit_cache import (
    cached_unit,
    finished_unit,
    link_files,
    unit_digests,
)
from tests.damage import flip_bit
from tests.errors import refused

CODE = "components.runtime.unit_cache"
KEY = {"version": 1}


@pytest.fixture(autouse=True)
def _empty(work: Path) -> None:
    """Each test has a work cache of its own."""


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "a.txt").write_text("sound")
    (folder / "deep" / "b.txt").write_text("silence")


def take() -> Path:
    return cached_unit("stage", KEY, fill, code=CODE)


def contents(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("a.txt", "deep/b.txt")]


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt"])
@pytest.mark.parametrize("keeps_time", [True, False])
def test_a_unit_with_a_flipped_bit_is_made_again(
    name: str, keeps_time: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unit = take()
    link_files(unit, tmp_path / "out")
    flip_bit(tmp_path / "out" / name, keeps_time=keeps_time)
    assert contents(unit) != ["sound", "silence"]
    with caplog.at_level(logging.INFO, "components"):
        assert take() == unit
    assert contents(unit) == ["sound", "silence"]
    assert [str(unit / name) in line for line in caplog.messages] == [True]
    caplog.clear()
    take()
    assert not caplog.messages


def test_a_file_that_was_right_is_read_again_only_if_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit, reads = take(), []
    digest = integrity.file_digest

    def count(path: Path) -> str:
        reads.append(path.name)
        return digest(path)

    monkeypatch.setattr(integrity, "file_digest", count)
    take()
    assert sorted(reads) == ["a.txt", "b.txt"]
    take()
    finished_unit("stage", KEY, CODE)
    assert len(reads) == 2
    os.utime(unit / "a.txt", (1, 1))
    take()
    assert reads[2:] == ["a.txt"]
    flip_bit(unit / "a.txt", keeps_time=False)
    take()
    assert contents(unit) == ["sound", "silence"]
    take()  # reads the new files, and remembers them
    flip_bit(next(integrity.work_root().glob("verified/*.json")), 0)
    reads.clear()
    take()
    assert sorted(reads) == ["a.txt", "b.txt"], "what was remembered is damaged"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'{"files": []}',
        b'{"files": {"a.txt": 5}}',
        b'{"files": {"a.txt": ["x", 1]}}',
        b'{"files": {"../../a.txt": [5, "x"]}}',
        b'{"files": {"/etc/passwd": [5, "x"]}}',
        b"\xff",
    ],
)
def test_a_unit_with_a_damaged_record_is_made_again(record: bytes) -> None:
    unit = take()
    path = unit / cache.UNIT
    path.chmod(0o644)
    path.write_bytes(record)
    with refused(str(path)):
        unit_digests(unit)
    assert finished_unit("stage", KEY, CODE) is None
    assert contents(take()) == ["sound", "silence"]


@pytest.mark.parametrize("damage", [flip_bit, Path.unlink])
def test_a_damaged_file_of_a_model_is_named(damage, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    fill(folder)
    write_record(folder, "train", parameters=None, inputs={})
    assert sorted(checked_digests(folder)) == ["a.txt", "deep/b.txt"]
    copy = shutil.copytree(folder, tmp_path / "copy")  # not read before
    damage(copy / "deep" / "b.txt")
    with refused(str(copy / "deep" / "b.txt"), "clean --verify"):
        checked_digests(copy)


def test_another_digest_for_the_same_file_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path)
    write_record(tmp_path, "train", parameters=None, inputs={})
    checked_digests(tmp_path)
    digest = checked_digests(tmp_path)["deep/b.txt"]
    outputs = {"a.txt": digest, "deep/b.txt": digest}
    write_record(tmp_path, "train", parameters=None, inputs={}, outputs=outputs)
    with refused(str(tmp_path / "a.txt")):
        checked_digests(tmp_path)


def run_dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)


@pytest.mark.slow
def test_objects_of_dvc_with_the_same_damage_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would put them in the place of the new files. Those that are right stay."""
    monkeypatch.chdir(tmp_path)
    run_dvc(tmp_path, "init", "-q", "--no-scm")
    run_dvc(tmp_path, "config", "cache.type", "hardlink")
    link_files(take(), Path("out"))
    run_dvc(tmp_path, "add", "-q", "out")
    objects = {path.read_text(): path for path in list_objects(Path(".dvc/cache"))}
    assert len(objects) == 3 and all(map(is_object_intact, objects.values()))
    flip_bit(Path("out/a.txt"))
    assert not is_object_intact(objects["sound"])
    unit = take()
    assert not objects["sound"].exists() and objects["silence"].exists()
    link_files(unit, Path("out"))
    run_dvc(tmp_path, "add", "-q", "out")
    assert contents(Path("out")) == ["sound", "silence"]
    assert objects["sound"].read_text() == "sound"
