"""Tars in a bucket (``LIBRETTO_STORE``), each under its SHA-256, if ``shards.remote`` or
``features.remote`` is on.

In: a finished tar in the folder of its unit. Out: the object ``<digest>.tar``, and ``stored.json``
in place of the tar, so that no copy stays on this machine. The same tar is the same object, written
once; nothing is ever overwritten or removed. Cost: one request to ask for the object, one to write
it (several for the parts of a large one).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.runtime.hashing import file_digest
from components.runtime.json_files import read_json
from components.runtime.s3 import RemotePath
from components.runtime.settings import store_url
from components.runtime.unit_cache import Key, cached_unit, link_file, lock, unit_digests

STORED = "stored.json"


def stored_tar(digest: str) -> RemotePath:
    """The address of the tar with this digest, whether or not it exists."""
    return RemotePath(store_url()) / digest[:2] / f"{digest}.tar"


def cached_tar(
    stage: str, key: Key, name: str, remote: bool, write: Callable[[Path], None], *, code: str
) -> Path:
    """The finished unit of the tar ``name``; ``write(folder)`` writes it with its index if the work
    cache does not have it. With ``remote`` the tar is moved to the store.

    Raises what ``components.runtime.unit_cache.cached_unit`` raises, where ``code`` is explained.
    """

    def fill(folder: Path) -> None:
        write(folder)
        if remote:
            _move_to_store(folder / name)

    key = {**key, "name": name, **({"remote": True} if remote else {})}
    unit = cached_unit(stage, key, fill, code=code)
    return cached_unit(stage, key, fill, code=code) if _remove_if_not_stored(unit) else unit


def link_tar(unit: Path, name: str, target: Path) -> None:
    """Links a unit's tar into ``target``; does nothing if it is in the store."""
    if not _stored_record(unit):
        link_file(unit / name, target / name)


def _move_to_store(tar: Path) -> None:
    """Writes a tar to the store and replaces it by a record of its digest and size."""
    digest, size = file_digest(tar), tar.stat().st_size
    if not _is_stored(digest, size):
        stored_tar(digest).write_bytes(tar.read_bytes())
    tar.with_name(STORED).write_text(
        json.dumps({"name": tar.name, "sha256": digest, "bytes": size})
    )
    tar.unlink()


def digest_of(unit: Path, name: str) -> str:
    """SHA-256 of a unit's tar, on this machine or in the store."""
    record = _stored_record(unit)
    return record["sha256"] if record else unit_digests(unit)[name]


def bytes_of(unit: Path, name: str) -> int:
    """Size of a unit's tar, on this machine or in the store."""
    record = _stored_record(unit)
    return record["bytes"] if record else (unit / name).stat().st_size


def _stored_record(unit: Path) -> dict[str, Any]:
    """The record of a tar that the unit moved to the store; empty if the unit has its tar."""
    stored = unit / STORED
    if not stored.is_file():
        return {}
    record: dict[str, Any] = read_json(stored, keys={"sha256": str, "bytes": int})
    return record


def _remove_if_not_stored(unit: Path) -> bool:
    """Whether the unit's tar was moved to a store and this store does not have it; the unit is then
    removed.
    """
    if not _stored_record(unit):
        return False
    with lock(unit):  # another process may have written it anew
        record = _stored_record(unit)
        if not record or _is_stored(record["sha256"], record["bytes"]):
            return False
        shutil.rmtree(unit)
    return True


def _is_stored(digest: str, size: int) -> bool:
    try:
        return stored_tar(digest).stat().st_size == size
    except FileNotFoundError:
        return False
