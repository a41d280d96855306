"""Work cache: finished units of work, by key, outside the workspace.

DVC removes the outputs of a stage before it runs the stage. So the work of a killed stage is stored
here: a unit (a shard, a training) is computed once for its key and linked into the output. A key
has one writer at a time (file lock). A unit is written in a folder beside its own and renamed when
it is complete and on the disk, so nothing incomplete is ever taken for finished; a unit whose bytes
no longer have the digests of its record is dropped and made again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.config.errors import REPAIR, InputError
from components.runtime.code_digest import code_digest
from components.runtime.durability import rename
from components.runtime.dvc_cache import drop_damaged_objects
from components.runtime.hashing import data_digest, file_digest
from components.runtime.integrity import find_damage, forget_folder
from components.runtime.pins import drop_dead_pins, is_pinned, pin
from components.runtime.processor import processor_of
from components.runtime.settings import work_bytes, work_root

FICLONE = 0x40049409  # ioctl_ficlone(2)
UNIT_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}")  # key and code
UNIT = "unit.json"  # the key of a unit and the sizes and digests of its files
PARTIAL = ".partial"  # behind the name of a unit that is being computed
USED_S = 3600  # after its last use, in which a unit is not dropped
# After the last change of what a killed process left: a training of which somebody wants the rest
# is started again within days, and its checkpoints may be hours apart.
PARTIAL_AGE_S = 7 * 24 * 3600
Key = dict[str, Any]
log = logging.getLogger(__name__)


def unit_path(stage: str, key: Key, code: str) -> Path:
    """The folder of the unit of this key, finished or not; ``code`` names the module whose code
    computes it (``components.encoder.ctc``): it and all that it imports are a part of the key, and
    so is the type of processor where that decides the bits.
    """
    return unit_path_of(stage, data_digest(key), code)


def unit_path_of(stage: str, key_digest: str, code: str) -> Path:
    """The folder of the unit whose key has this digest, for the code, the libraries and the type of
    processor as they are now.
    """
    name = f"{key_digest}-{data_digest([code_digest(code), processor_of(code)])[:16]}"
    return work_root() / stage / key_digest[:2] / name


def key_digest_of(unit: Path) -> str:
    """The digest of a unit's key, which does not change with the code: it may be in a manifest."""
    return unit.name.partition("-")[0]


def finished_unit(stage: str, key: Key, code: str) -> Path | None:
    """The finished unit of this key; None where it is missing, incomplete or damaged."""
    path = unit_path(stage, key, code)
    if not path.is_dir():
        return None
    damage = find_unit_damage(path)
    if not damage:
        os.utime(path)
        return path
    log.info("%s: %s is damaged: the unit is dropped and made again", stage, path / damage)
    drop_unit(path)
    return None


def find_unit_damage(unit: Path, *, anew: bool = False) -> str:
    """The first file of a unit that is damaged, by its path in the unit; empty where all are right.
    With ``anew`` all are read, also those that were right before.
    """
    try:
        files = _unit_files(unit)
    except InputError:
        return UNIT
    digests = {name: digest for name, (_, digest) in files.items()}
    sizes = {name: size for name, (size, _) in files.items()}
    return find_damage(unit, digests, sizes, anew=anew)


def list_units() -> list[Path]:
    """The finished units of the work cache, damaged ones too."""
    return [path for path in sorted(work_root().glob("*/??/*")) if UNIT_NAME.fullmatch(path.name)]


def drop_unit(unit: Path) -> None:
    """Removes a damaged unit. It is remembered until the unit is made again: objects of DVC's cache
    with the same damage are then removed, since DVC would put them in the place of the new files.
    """
    _damage_mark(unit).touch()
    _remove(unit)


def _remove(unit: Path) -> None:
    shutil.rmtree(unit, ignore_errors=True)  # another process drops it too
    forget_folder(unit)


def _damage_mark(unit: Path) -> Path:
    return unit.with_suffix(".damaged")


def unit_digests(unit: Path) -> dict[str, str]:
    """SHA-256 of each file of a finished unit, as its record has it; raises InputError where the
    record is damaged.
    """
    return {name: digest for name, (_, digest) in _unit_files(unit).items()}


def _unit_files(unit: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of each file of a unit, by its path in the unit."""
    path = unit / UNIT
    try:
        record = json.loads(path.read_bytes())["files"]
        files = {name: (int(size), str(digest)) for name, (size, digest) in record.items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("a file outside the unit")
        return files
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is missing or damaged.", subject=str(path), hint=REPAIR) from None


def unit_libraries(unit: Path) -> set[str]:
    """The libraries whose versions are a part of a finished unit's key: those that made it."""
    return set(json.loads((unit / UNIT).read_text())["key"]["code"]["libraries"])


def cached_unit(stage: str, key: Key, compute: Callable[[Path], None], *, code: str) -> Path:
    """The finished unit of ``key``; calls ``compute(folder)`` to fill it if it does not exist.

    ``code`` names the module that computes it, see ``unit_path``.

    ``folder/resume`` has what ``compute`` left there in a killed run (checkpoints); it is no part
    of the finished unit. Raises InputError where the disk becomes full.
    """
    path = unit_path(stage, key, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        pin(path)
        unit = finished_unit(stage, key, code)
        if unit:
            return unit
        folder = path.with_suffix(PARTIAL)
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.name != "resume":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        with check_disk_space(0, folder, stage):
            compute(folder)
            shutil.rmtree(folder / "resume", ignore_errors=True)
            made_by = {"code": code_digest(code)._asdict(), "processor": processor_of(code)}
            _seal(folder, {**key, **made_by})
        rename(folder, path)
        if _damage_mark(path).is_file():
            for file in drop_damaged_objects(path / name for name in unit_digests(path)):
                log.info("%s: %s of DVC's cache was damaged too and is removed", stage, file)
            _damage_mark(path).unlink()
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Within this block, this process is the one writer of a unit; the operating system frees the
    lock when the process dies.
    """
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


@contextlib.contextmanager
def check_disk_space(needed: int, folder: Path, where: str) -> Iterator[None]:
    """Raises InputError, which names ``where``, at once if ``folder`` has no space for ``needed``
    bytes, and when the disk becomes full within this block.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if needed > shutil.disk_usage(existing).free:
        raise _disk_full_error(needed, folder, existing, where)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full_error(needed, folder, existing, where) from None


def _disk_full_error(needed: int, folder: Path, existing: Path, where: str) -> InputError:
    free = shutil.disk_usage(existing).free
    amount = f"{needed:,} bytes are needed, " if needed else ""  # 0: it is not known beforehand
    return InputError(
        f"{where}: {existing}: the disk is full: {amount}{free:,} are free.",
        subject=str(folder),
        hint="Free some space ('python -m components.clean' drops old units of the work cache), "
        "then run again: finished work stays.",
    )


def _seal(folder: Path, key: Key) -> None:
    """Writes the unit's record and makes all its files read-only."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, file_digest(path))
        for path in files
    }
    (folder / UNIT).write_text(json.dumps({"key": key, "files": record}, indent=1, sort_keys=True))
    for path in [*files, folder / UNIT]:
        path.chmod(0o444)


def link_files(unit: Path, target: Path) -> None:
    """Links the files of a finished unit into ``target`` (copies where links are not possible)."""
    for name in unit_digests(unit):
        link_file(unit / name, target / name)


def link_file(file: Path, target: Path) -> None:
    """Makes ``target`` the same file, or a read-only copy of it where links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
        target.chmod(0o444)


def copy_file(file: Path, target: Path) -> None:
    """Makes ``target`` a file of its own with the content of ``file``: a clone (reflink), which
    takes no space, where the file system has them, else a copy. A write into one does not change
    the other.
    """
    try:
        with file.open("rb") as source, target.open("wb") as clone:
            fcntl.ioctl(clone.fileno(), FICLONE, source.fileno())
    except OSError:
        shutil.copyfile(file, target)


def trim(limit: int | None = None) -> tuple[int, int]:
    """Drops the least recently used units until the cache has at most ``limit`` bytes (default:
    ``LIBRETTO_WORK_GB``).

    Returns (number of dropped units, remaining bytes). What a process computes or has taken stays
    (``components.runtime.pins``), and so do units used within the last hour. What a killed process
    left unfinished goes last, and only ``PARTIAL_AGE_S`` after its last change.
    """
    limit = work_bytes() if limit is None else limit
    drop_dead_pins()
    units = [path for path in work_root().glob("*/??/*") if path.is_dir()]
    sized = [(path.suffix == PARTIAL, *usage, path) for path in units if (usage := _usage_of(path))]
    total, dropped = sum(size for _, _, size, _ in sized), 0
    for is_partial, last_use, size, path in sorted(sized, key=lambda entry: entry[:2]):
        if total <= limit:
            break
        if time.time() - last_use >= (PARTIAL_AGE_S if is_partial else USED_S) and _drop(path):
            total, dropped = total - size, dropped + 1
    _drop_lock_files()
    return dropped, total


def _drop(path: Path) -> bool:
    """Removes a unit, finished or not, unless a process computes it or has taken it; returns
    whether it is gone.
    """
    from filelock import FileLock, Timeout

    unit = path.with_suffix("")
    try:
        with FileLock(f"{unit}.lock", timeout=0):
            if is_pinned(unit):
                return False
            _remove(path)
    except Timeout:
        return False
    return not path.exists()


def _drop_lock_files() -> None:
    """Removes the lock files that belong to no unit. Who waits for one notices, and makes another
    (filelock looks whether the file that it has locked has a name).
    """
    from filelock import FileLock, Timeout

    for path in work_root().glob("*/??/*.lock"):
        unit = path.with_suffix("")
        if unit.exists() or unit.with_suffix(PARTIAL).exists():
            continue
        with contextlib.suppress(Timeout), FileLock(path, timeout=0):
            if not (unit.exists() or unit.with_suffix(PARTIAL).exists()):
                path.unlink(missing_ok=True)


def _usage_of(unit: Path) -> tuple[float, int] | None:
    """(time of the last use in seconds since 1970, size in bytes) of a unit; None where another
    process has removed it.

    A unit that is being computed is in use while checkpoints are written into it.
    """
    times, size = [], 0
    for folder, _, files in os.walk(unit):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                times.append(status.st_mtime)
                size += status.st_size if path != folder else 0
    return (max(times), size) if times else None
