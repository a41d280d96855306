"""Bytes that a run writes, disk by disk, with every copy that the links of these disks really make.

A finished unit lies in the work cache, a stage links or copies it into the workspace, and DVC takes
it into its cache and lays it out anew by the link types of its configuration. Which links are
possible is tried with an empty file. Cost: milliseconds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config.errors import InputError
from components.runtime.settings import work_root

FICLONE = 0x40049409  # ioctl_ficlone(2)


@dataclass(frozen=True)
class Written:
    """Bytes of one kind, each of them in every one of ``places``."""

    what: str
    bytes: float
    places: tuple[Path, ...]
    instead: str = "linked"  # what is said where there are none


@dataclass(frozen=True)
class Room:
    """What is needed and free on one disk."""

    disk: Path  # a folder that lies on it
    needed: float  # bytes
    free: float  # bytes


def output_places() -> tuple[Path, ...]:
    """The folders in which a stage's output takes up room of its own: one for each copy that is
    made of it.
    """
    work, workspace, cache = existing(work_root()), Path.cwd(), existing(Path(_dvc("cache", "dir")))
    types = _dvc("config", "cache.type", default="reflink,copy").split(
        ","
    )  # where none are configured: DVC's own
    hard, cloned = links(workspace, cache), clones(workspace, cache)
    # DVC takes an output into its cache as a clone, as a hard link only where that type stands
    # first, else as a copy; then it lays the output out anew from there.
    shared = cloned or (hard and types[0] == "hardlink")
    places = [work]
    if not (shared and links(work, workspace)):
        places.append(cache)
    if not (
        (hard and "hardlink" in types) or (cloned and "reflink" in types) or "symlink" in types
    ):
        places.append(workspace)
    return tuple(places)


def _dvc(*question: str, default: str = "") -> str:
    """What DVC says of its configuration."""
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", *question], capture_output=True, text=True, check=False
    )
    if asked.returncode and default:
        return default
    if asked.returncode:
        raise InputError(
            f"'dvc {' '.join(question)}' failed: {asked.stderr.strip()}",
            hint="Run from the root of the repository.",
        )
    return asked.stdout.strip()


def links(one: Path, other: Path) -> bool:
    """Whether a file of the folder ``one`` can be a hard link in ``other``."""
    try:
        with tempfile.NamedTemporaryFile(dir=one) as file:
            link = other / f".{Path(file.name).name}.link"
            os.link(file.name, link)
            link.unlink()
        return True
    except OSError:
        return False


def clones(one: Path, other: Path) -> bool:
    """Whether a file of the folder ``one`` can be cloned (reflink) into ``other``."""
    try:
        with (
            tempfile.NamedTemporaryFile(dir=one) as file,
            tempfile.NamedTemporaryFile(dir=other) as clone,
        ):
            fcntl.ioctl(clone.fileno(), FICLONE, file.fileno())
        return True
    except OSError:
        return False


def existing(path: Path) -> Path:
    """The folder itself, or the first above it that is there: what will be made lies on
    its disk.
    """
    return next(each for each in (path, *path.parents) if each.is_dir())


def rooms(written: Sequence[Written]) -> list[Room]:
    """Needed and free bytes of every disk that something is written to."""
    disks: dict[int, tuple[Path, float]] = {}
    for each in written:
        for place in map(existing, each.places):
            number = place.stat().st_dev
            first, needed = disks.get(number, (place, 0.0))
            disks[number] = (first, needed + each.bytes)
    return [Room(disk, needed, shutil.disk_usage(disk).free) for disk, needed in disks.values()]


def check(found: Sequence[Room]) -> None:
    """Raises InputError for the first disk that is too small."""
    for room in found:
        if room.needed > room.free:
            raise InputError(
                f"The disk of {room.disk} is too small: {room.needed / 1e9:,.1f} GB will be written, "
                f"{room.free / 1e9:,.1f} GB are free.",
                subject=str(room.disk),
                hint="Make room, or move what is large (LIBRETTO_WORK, HF_HOME, the data roots, DVC's cache.dir), or "
                "set features.mode to live, which stores no features.",
            )
