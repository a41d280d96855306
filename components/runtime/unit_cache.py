"""Work cache: finished units of work, by key, outside the workspace.

DVC removes a stage's outputs before it runs the stage, so what makes a killed stage go on where it
stood is kept here: a unit (a shard, a training) is made once for its key and linked into the
output. One writer a key (file lock); made in a folder beside it and renamed when whole, so nothing
half-written is ever taken for finished.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.runtime.code_digest import code_digest
from components.runtime.hashing import data_digest, file_digest
from components.runtime.settings import work_bytes, work_root

UNIT = "unit.json"  # the key of a unit and the sizes and digests of its files
Key = dict[str, Any]


def unit_path(stage: str, key: Key, code: str) -> Path:
    """The folder of the unit of this key, finished or not; ``code`` names the module whose code
    computes it (``components.encoder.ctc``): it and all that it imports are a part of the key.
    """
    return unit_path_of(stage, data_digest(key), code)


def unit_path_of(stage: str, key_digest: str, code: str) -> Path:
    """The folder of the unit whose key has this digest, as the code is now."""
    return (
        work_root() / stage / key_digest[:2] / f"{key_digest}-{data_digest(code_digest(code))[:16]}"
    )


def key_digest_of(unit: Path) -> str:
    """The digest of a unit's key, which does not change with the code: fit for a manifest."""
    return unit.name.partition("-")[0]


def finished_unit(stage: str, key: Key, code: str) -> Path | None:
    """The finished unit of this key, if it is there and whole."""
    path = unit_path(stage, key, code)
    if not path.is_dir():
        return None
    with contextlib.suppress(FileNotFoundError, ValueError):  # of its record
        files = json.loads((path / UNIT).read_text())["files"]
        if all(
            (path / name).is_file() and (path / name).stat().st_size == size
            for name, (size, _) in files.items()
        ):
            os.utime(path)
            return path
    shutil.rmtree(path)  # broken from outside, or dropped by half: made anew
    return None


def unit_digests(unit: Path) -> dict[str, str]:
    """SHA-256 of each file of a finished unit, as recorded when it was made."""
    return {
        name: digest for name, (_, digest) in json.loads((unit / UNIT).read_text())["files"].items()
    }


def cached_unit(stage: str, key: Key, make: Callable[[Path], None], *, code: str) -> Path:
    """The finished unit of ``key``, calling ``make(folder)`` to fill it if it is not there.

    ``code`` names the module that computes it, see ``unit_path``.

    ``make`` may find its own earlier work in ``folder`` (checkpoints of a killed run) below
    ``folder/resume``, which does not enter the finished unit. Raises InputError where the disk
    fills up.
    """
    path = unit_path(stage, key, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        unit = finished_unit(stage, key, code)
        if unit:
            return unit
        folder = path.with_suffix(".partial")
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.name != "resume":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        with check_disk_space(0, folder, stage):
            make(folder)
            shutil.rmtree(folder / "resume", ignore_errors=True)
            _seal(folder, {**key, "code": code_digest(code)._asdict()})
        folder.rename(path)
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the one-writer lock of a unit; the operating system frees it when its holder dies."""
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


@contextlib.contextmanager
def check_disk_space(needed: int, folder: Path, where: str) -> Iterator[None]:
    """Raises InputError, which names ``where``, before ``needed`` bytes are written to ``folder``
    where they don't fit, or when the disk fills up.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    message = (
        f"{where}: {existing}: the disk is full: {needed:,} bytes are needed, {{free:,}} are free."
    )
    hint = (
        "Make room ('python -m components.clean' drops old units of the work cache), "
        "then run again: what is done is kept."
    )
    if needed > (free := shutil.disk_usage(existing).free):
        raise InputError(message.format(free=free), subject=str(folder), hint=hint)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            message.format(free=shutil.disk_usage(existing).free), subject=str(folder), hint=hint
        ) from None


def _seal(folder: Path, key: Key) -> None:
    """Writes the unit's record and makes all of it read-only."""
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
    """Makes ``target`` the same file, or a copy of it that can't be written either."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
        target.chmod(0o444)


def trim(limit: int | None = None) -> tuple[int, int]:
    """Drops the units that were unused for longest until the cache is below ``limit`` bytes.

    Returns (units dropped, bytes left). Units used within the last hour stay: a stage may be
    reading them.
    """
    limit = work_bytes() if limit is None else limit
    units = [path for path in work_root().glob("*/??/*") if path.is_dir()]
    sized = [(*usage, path) for path in units if (usage := _usage_of(path))]
    total, dropped = sum(size for _, size, _ in sized), 0
    for used, size, path in sorted(sized, key=lambda entry: entry[0]):
        if total <= limit or time.time() - used < 3600:
            break
        with contextlib.suppress(FileNotFoundError):  # another process drops it too
            shutil.rmtree(path)
        total, dropped = total - size, dropped + 1
    return dropped, total


def _usage_of(unit: Path) -> tuple[float, int] | None:
    """When a unit was last written to or taken, and its bytes; None where it is gone: others make,
    finish and drop units meanwhile.

    Of what is being made only the checkpoints inside it show that it goes on.
    """
    times, size = [], 0
    for folder, _, files in os.walk(unit):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                times.append(status.st_mtime)
                size += status.st_size if path != folder else 0
    return (max(times), size) if times else None
