"""``components.clean --verify``: what is damaged of all that was computed is removed, counted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from components.clean import main
from components.runtime.artifact import RECORD, write_record
from components.runtime.unit_cache import UNIT, cached_unit, link_files, unit_digests
from tests.damage import flip_bit

CODE = "components.runtime.unit_cache"
OBJECTS = Path(".dvc/cache/files/md5")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of DVC with one output, whose files are those of two units and of DVC's cache."""
    folder = tmp_path / "workspace"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text(
        '[core]\n    no_scm = true\n[cache]\n    type = "hardlink"\n'
    )
    monkeypatch.chdir(folder)
    out = Path("data/shards/test")
    for name in ("one", "two"):
        link_files(unit(name), out)
    write_record(out, "shards", parameters=None, inputs={})
    for file in [*out.iterdir()]:
        add_object(file)
    listing = folder.parent / "listing"
    listing.write_text(json.dumps([{"md5": "0" * 32, "relpath": "one"}]))
    add_object(listing, ".dir")
    return folder


def unit(name: str) -> Path:
    return cached_unit(
        "stage",
        {"name": name},
        lambda folder: (folder / name).write_text(name * 9) and None,
        code=CODE,
    )


def add_object(file: Path, ending: str = "") -> Path:
    """The object of DVC's cache with the bytes of a file, as a hard link."""
    name = hashlib.md5(file.read_bytes()).hexdigest()
    path = OBJECTS / name[:2] / (name[2:] + ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, path)
    return path


def verify(capsys: pytest.CaptureFixture) -> tuple[int, list[tuple[int, int, int]], str]:
    """Exit code; total, right and damaged of each kind; the output."""
    code = main(["--verify"])
    output = capsys.readouterr().out
    counts = re.findall(r"^(\d+) [^:]*: (\d+) right, (\d+) damaged", output, re.M)
    return code, [tuple(map(int, count)) for count in counts], output


def test_what_is_right_stays(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(workspace.parent.rglob("*"))
    assert verify(capsys)[:2] == (0, [(2, 2, 0), (4, 4, 0), (2, 2, 0)])
    assert set(before) <= set(workspace.parent.rglob("*"))


def test_a_fault_of_one_inode_is_removed_from_all_caches(capsys: pytest.CaptureFixture) -> None:
    """Although the unit was right when it was last taken, and has the same size and times."""
    unit("one")
    file = Path("data/shards/test/one")
    path = next(path for path in OBJECTS.glob("*/*") if path.samefile(file))
    flip_bit(file)
    code, counts, output = verify(capsys)
    assert (code, counts) == (1, [(2, 1, 1), (4, 3, 1), (2, 1, 1)])
    assert not file.exists() and not path.exists()
    assert str(file) in output and str(path) in output
    assert unit("one") and verify(capsys)[:2] == (0, [(2, 2, 0), (3, 3, 0), (1, 1, 0)])


@pytest.mark.parametrize("ending", ["", ".dir"])
def test_an_object_of_dvc_alone_is_removed(ending: str, capsys: pytest.CaptureFixture) -> None:
    path = next(path for path in OBJECTS.glob("*/*") if path.suffix == ending)
    data = path.read_bytes()
    path.unlink()  # no link of another file
    path.write_bytes(data)
    flip_bit(path)
    (path.parent / "unfinished.tmp").write_text("of DVC, while it writes")
    code, counts, output = verify(capsys)
    assert (code, counts) == (1, [(2, 2, 0), (4, 3, 1), (2, 2, 0)])
    assert not path.exists() and str(path) in output
    assert (path.parent / "unfinished.tmp").exists()


@pytest.mark.parametrize("damage", [flip_bit, lambda file: os.truncate(file, 3)])
def test_a_copy_in_the_workspace_is_removed(damage, capsys: pytest.CaptureFixture) -> None:
    file = Path("data/shards/test/two")
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)
    damage(file)
    assert verify(capsys)[:2] == (1, [(2, 2, 0), (4, 4, 0), (2, 1, 1)])
    assert not file.exists()


@pytest.mark.parametrize(("old", "new"), [("{", ""), ('"shards"', '"shardt"')])
def test_a_damaged_record_is_removed(old: str, new: str, capsys: pytest.CaptureFixture) -> None:
    """Also one that is JSON of the right shape: it has its own digest."""
    record = Path("data/shards/test") / RECORD
    text = record.read_text()
    record.unlink()
    record.write_text(text.replace(old, new, 1))
    assert verify(capsys)[:2] == (1, [(2, 2, 0), (4, 4, 0), (1, 0, 1)])
    assert not record.exists()


def test_a_unit_without_its_record_is_removed(capsys: pytest.CaptureFixture) -> None:
    folder = unit("one")
    (folder / UNIT).unlink()
    partial = folder.with_suffix(".partial")
    partial.mkdir()  # being computed
    code, counts, output = verify(capsys)
    assert (code, counts[0]) == (1, (2, 1, 1)) and str(folder) in output
    assert not folder.exists() and partial.exists()


def test_outside_a_workspace_the_work_cache_alone_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert verify(capsys)[:2] == (0, [(2, 2, 0)])
    flip_bit(next(iter(unit("two").glob("two"))))
    assert verify(capsys)[:2] == (1, [(2, 1, 1)])
    assert unit_digests(unit("two"))


def test_a_file_that_cannot_be_read_counts_as_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As where the disk answers with EIO."""
    file = unit("one") / "one"
    inode, real = file.stat().st_ino, Path.open

    def fail(self: Path, *arguments: str, **named: str):
        if os.stat(self).st_ino == inode:
            raise OSError(5, "Input/output error")
        return real(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    code, counts, _ = verify(capsys)
    assert (code, counts) == (1, [(2, 1, 1), (4, 3, 1), (2, 1, 1)])
