"""Tars in a bucket (``LIBRETTO_STORE``), each under its SHA-256, where ``shards.remote`` or
``features.remote`` is on.

In: a finished tar in the folder of its unit. Out: the object ``<digest>.tar``, and ``stored.json``
in the tar's place, so that no copy stays on this machine. The same tar is the same object, written
once; nothing here is ever overwritten or removed. Cost: one request to ask, one to write (of parts,
where it is large).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.runtime.hashing import file_digest
from components.runtime.s3 import RemotePath
from components.runtime.settings import store_url
from components.runtime.unit_cache import Key, cached_unit, link_file, unit_digests

STORED = "stored.json"


def stored_tar(digest: str) -> RemotePath:
    """Where the tar of this digest lies, or would."""
    return RemotePath(store_url()) / digest[:2] / f"{digest}.tar"


def cached_tar(
    stage: str, key: Key, name: str, remote: bool, make: Callable[[Path], None], *, code: str
) -> Path:
    """The finished unit of the tar ``name``, which ``make(folder)`` writes with its index where it
    is not there; the tar lies in the store where ``remote`` says so. Raises what
    ``components.runtime.unit_cache.cached_unit`` raises, where ``code`` is explained too.
    """

    def fill(folder: Path) -> None:
        make(folder)
        if remote:
            _send(folder / name)

    key = {**key, "name": name, **({"remote": True} if remote else {})}
    unit = cached_unit(stage, key, fill, code=code)
    return cached_unit(stage, key, fill, code=code) if _drop_if_lost(unit) else unit


def link_tar(unit: Path, name: str, target: Path) -> None:
    """Links a unit's tar into ``target``, where it is not in the store."""
    if not _stored_record(unit):
        link_file(unit / name, target / name)


def _send(tar: Path) -> None:
    """Puts a tar into the store, and its digest and size in its place on the disk."""
    digest, size = file_digest(tar), tar.stat().st_size
    if not _is_stored(digest, size):
        stored_tar(digest).write_bytes(tar.read_bytes())
    tar.with_name(STORED).write_text(
        json.dumps({"name": tar.name, "sha256": digest, "bytes": size})
    )
    tar.unlink()


def digest_of(unit: Path, name: str) -> str:
    """SHA-256 of a unit's tar, wherever it lies."""
    sent = _stored_record(unit)
    return sent["sha256"] if sent else unit_digests(unit)[name]


def bytes_of(unit: Path, name: str) -> int:
    """Size of a unit's tar, wherever it lies."""
    sent = _stored_record(unit)
    return sent["bytes"] if sent else (unit / name).stat().st_size


def _stored_record(unit: Path) -> dict[str, Any]:
    """What a unit says of a tar that it sent to the store; empty where it holds its tar itself."""
    stored = unit / STORED
    return json.loads(stored.read_text()) if stored.is_file() else {}


def _drop_if_lost(unit: Path) -> bool:
    """Whether this store does not have what the unit says that it sent to one; the unit is then
    dropped.
    """
    sent = _stored_record(unit)
    if not sent or _is_stored(sent["sha256"], sent["bytes"]):
        return False
    shutil.rmtree(unit)
    return True


def _is_stored(digest: str, size: int) -> bool:
    try:
        return stored_tar(digest).stat().st_size == size
    except FileNotFoundError:
        return False
