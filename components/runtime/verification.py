"""Verification of all that was computed: every unit of the work cache, every object of DVC's cache,
every file of an output folder of the workspace, each against the digest that names or describes it.

What is damaged is removed, so that ``dvc repro`` makes it again or takes it from elsewhere. Cost:
everything is read once: SHA-256 reads about 10⁹ bytes a second, MD5 6·10⁸; a file that is the same
inode as a unit's is not read for the workspace again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.config.errors import InputError
from components.runtime.artifact import RECORD, recorded_digests
from components.runtime.dvc_cache import is_object_intact, list_objects
from components.runtime.hashing import file_digest
from components.runtime.progress import progress
from components.runtime.unit_cache import (
    drop_unit,
    find_unit_damage,
    list_units,
    lock,
    unit_digests,
)

COMMAND = "clean"  # as progress names it
OUTPUTS = ("data", "models")  # folders of the workspace in which stages write
Inodes = dict[tuple[int, int], str]  # SHA-256 of right files, by device and inode


@dataclass
class Count:
    """How many of a kind were right, and which were damaged."""

    kind: str  # in the plural
    num_right: int = 0
    damaged: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        total = self.num_right + len(self.damaged)
        removed = ", removed" if self.damaged else ""
        return f"{total} {self.kind}: {self.num_right} right, {len(self.damaged)} damaged{removed}"


def verify_units(inodes: Inodes) -> Count:
    """Compares the units of the work cache and drops damaged ones; adds the right files to
    ``inodes``.
    """

    def is_right(unit: Path) -> bool:
        damage = find_unit_damage(unit, anew=True)
        if not damage:
            inodes.update(
                {_inode(unit / name): digest for name, digest in unit_digests(unit).items()}
            )
        return not damage

    def drop(unit: Path) -> None:
        with lock(unit):
            drop_unit(unit)

    return _verify(Count("units of the work cache"), list_units(), is_right, drop)


def verify_objects(cache: Path) -> Count:
    """Compares the objects of DVC's cache and removes damaged ones."""

    def is_right(path: Path) -> bool:
        try:
            return is_object_intact(path)
        except OSError:  # a fault of the disk
            return False

    return _verify(Count("objects of DVC's cache"), list(list_objects(cache)), is_right, _remove)


def verify_outputs(workspace: Path, inodes: Inodes) -> Count:
    """Compares the files of output folders with the records of these, and removes damaged ones; a
    file that is not there is no damage. ``inodes`` are files that need not be read.
    """
    digests: dict[Path, str] = {}
    for record in _records(workspace):
        try:
            outputs = recorded_digests(record.parent)
        except InputError:
            digests[record] = ""  # of no file: the record is damaged
            continue
        files = {record.parent / name: digest for name, digest in outputs.items()}
        digests |= {path: digest for path, digest in files.items() if path.is_file()}

    def is_right(path: Path) -> bool:
        try:
            return inodes.get(_inode(path)) == digests[path] or file_digest(path) == digests[path]
        except OSError:  # a fault of the disk
            return False

    return _verify(Count("files of the workspace"), list(digests), is_right, _remove)


def _records(workspace: Path) -> Iterator[Path]:
    for name in OUTPUTS:
        yield from sorted((workspace / name).rglob(RECORD))


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _verify(
    count: Count,
    paths: Iterable[Path],
    is_right: Callable[[Path], bool],
    remove: Callable[[Path], None],
) -> Count:
    paths = list(paths)
    with progress(COMMAND, "verify", len(paths), count.kind) as bar:
        for path in paths:
            if is_right(path):
                count.num_right += 1
            else:
                remove(path)
                count.damaged.append(path)
            bar.advance()
    return count


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
