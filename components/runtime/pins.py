"""Which units of the work cache are in use: who takes a unit pins it, and the trim leaves it.

In: paths of units. Out: a folder in ``pins`` of the work cache for each run of a stage, and for
each other process that takes units, with an empty file for each of them. Its lock is freed by the
kernel when the process dies, on whatever machine that shares the cache; the pins of a dead process
count no more. Workers and ranks pin into the folder of their stage, since it links what they took
after they have ended. Cost: one small file for each unit.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import time
from functools import cache
from pathlib import Path

from components.runtime.settings import work_root

PINS, LOCK = "pins", "lock"
VARIABLE = "LIBRETTO_PINS"  # the folder of the stage, for its workers and ranks
NEW = "new-"  # at the beginning of a name: a folder that is not locked yet
NEW_AGE_S = 3600  # after which its process must have died
_locks: dict[Path, int] = {}  # open files of this process, by folder


def share_pins() -> None:
    """Makes this process, its workers and its ranks pin into one folder, which lives as long as
    this process.
    """
    os.environ[VARIABLE] = str(_create_folder(work_root()))


def pin(unit: Path) -> None:
    """Pins a unit, finished or not, until this process, or the stage that it works for, ends."""
    _pin(_pin_folder(work_root(), os.environ.get(VARIABLE)), unit)


@cache
def _pin(folder: Path, unit: Path) -> None:
    path = folder / unit.relative_to(work_root())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@cache
def _pin_folder(root: Path, shared: str | None) -> Path:
    if shared and Path(shared).parent == root / PINS and Path(shared).is_dir():
        return Path(shared)
    return _create_folder(root)


def _create_folder(root: Path) -> Path:
    name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    new, folder = root / PINS / f"{NEW}{name}", root / PINS / name
    new.mkdir(parents=True)
    descriptor = os.open(new / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(folder)
    _locks[folder] = descriptor
    return folder


def release_pins() -> None:
    """Drops all pins of this process."""
    for folder, descriptor in _locks.items():
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
    _locks.clear()
    _pin.cache_clear()
    _pin_folder.cache_clear()
    os.environ.pop(VARIABLE, None)


def is_pinned(unit: Path) -> bool:
    """Whether a process that runs, this one too, has pinned a unit."""
    root = work_root()
    name = unit.relative_to(root)
    folders = [path for path in (root / PINS).glob("*") if (path / name).exists()]
    return any(_is_alive(folder) for folder in folders)


def drop_dead_pins() -> None:
    """Removes the folders of processes that have died."""
    for folder in (work_root() / PINS).glob("*"):
        if not _is_alive(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(folder: Path) -> bool:
    """Whether the process of a folder runs: it has the lock."""
    try:
        if folder.name.startswith(NEW):
            return time.time() - folder.stat().st_mtime < NEW_AGE_S
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
