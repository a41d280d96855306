"""Whether files still have the digests that their record states: those of a unit of the work cache
when it is taken, those of a model's folder when it is loaded.

A file is read once: that it was right is remembered by inode, size and time of change, in
``verified/`` of the work cache, so that it is read again only where one of them differs. A fault of
the disk that leaves all three as they are after that is noticed by the checksums of an index, or by
``components.clean --verify``, which reads everything. Cost: SHA-256 reads about 10⁹ bytes a second
and processor core, or what the disk gives; a file that was right before costs a ``stat``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from components.runtime.hashing import data_digest, file_digest
from components.runtime.settings import work_root

VERIFIED = "verified"  # folder of the work cache
LARGE = 5_000_000_000  # bytes to read from which on a line says so: some seconds
log = logging.getLogger(__name__)
Signature = list[int | str]  # inode, size in bytes, time of change in ns since 1970, SHA-256


def find_damage(
    folder: Path,
    digests: Mapping[str, str],
    sizes: Mapping[str, int] | None = None,
    *,
    anew: bool = False,
) -> str:
    """The first file of ``folder`` that is missing, can't be read, or has another size or SHA-256
    than stated, by its relative path; empty where all are right. With ``anew`` all are read.
    """
    remembered = {} if anew else _read_verified(folder)
    signatures: dict[str, Signature] = {}
    for name in digests:
        try:
            status = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return name
        if sizes is not None and status.st_size != sizes[name]:
            return name
        signatures[name] = [status.st_ino, status.st_size, status.st_mtime_ns, digests[name]]
    unread = [name for name, value in signatures.items() if remembered.get(name) != value]
    num_bytes = sum(int(signatures[name][1]) for name in unread)
    if num_bytes > LARGE:
        log.info("%s: %.1f GB are compared with their digests, once", folder, num_bytes / 1e9)
    for name in unread:
        try:
            digest = file_digest(folder / name)
        except OSError:  # a fault of the disk
            return name
        if digest != digests[name]:
            return name
    if unread:
        _write_verified(folder, signatures)
    return ""


def forget_folder(folder: Path) -> None:
    """Removes what is remembered of a folder that is no more."""
    _verified_path(folder).unlink(missing_ok=True)


def _verified_path(folder: Path) -> Path:
    return work_root() / VERIFIED / f"{data_digest(str(folder.absolute()))[:32]}.json"


def _read_verified(folder: Path) -> dict[str, Signature]:
    """Signature of each file of ``folder`` that was right, by its relative path."""
    with contextlib.suppress(OSError, ValueError):  # a damaged one: the files are read again
        content = json.loads(_verified_path(folder).read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _write_verified(folder: Path, signatures: Mapping[str, Signature]) -> None:
    path = _verified_path(folder)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):  # a full disk: the files are read again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(signatures))
        partial.replace(path)
