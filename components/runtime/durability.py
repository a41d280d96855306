"""Files and folders that survive a loss of power: what was written is on the disk before its name
is.

In: files that were written under another name. Out: the same under their own name, complete even
if the machine stops at any moment. Without this a file system may keep a rename and lose the bytes
of what was renamed (fsync(2)). Cost: the wait for the disk, once for each file and folder, or once
for many of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.runtime.hashing import file_digest

DIGESTS = "digests.json"  # SHA-256 of files of a folder, by name
# Above so many files in a folder the whole file system is synchronised: 500 files of 100 kB take
# 0.04 s so, and 0.5 s one after the other (ext4).
MANY_FILES = 32
# What file systems without an fsync of folders say (some network file systems).
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def sync_file(path: Path) -> None:
    """Waits until the bytes of a file are on the disk; raises OSError where it can't take them."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can say so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until all files below a folder, and their names, are on the disk."""
    tree = [(Path(below), names) for below, _, names in os.walk(folder, topdown=False)]
    if sum(len(names) for _, names in tree) > MANY_FILES and _sync_file_system(folder):
        return
    for below, names in tree:
        for name in names:
            if not (below / name).is_symlink() and (below / name).is_file():
                sync_file(below / name)
        sync_folder(below)


def _sync_file_system(folder: Path) -> bool:
    """Waits until all that was written to the file system of a folder is on the disk (syncfs(2));
    returns whether the kernel could.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return int(ctypes.CDLL(None).syncfs(descriptor)) == 0
    except AttributeError:  # a C library without it
        return False
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Renames a file or a folder with all that is in it, once it is on the disk; an existing file
    is replaced.
    """
    if source.is_dir():
        sync_tree(source)
    else:
        sync_file(source)
    source.rename(target)
    sync_folder(target.parent)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """The name under which to write the next version of a file within this block; afterwards it is
    ``path``. A reader sees the old file or all of the new one, even if this process is killed.
    """
    # A name may have 255 bytes, so none is made of it that is longer.
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{name}.partial")
    yield partial
    rename(partial, path)


def drop_from_memory(path: Path) -> None:
    """Lets the kernel forget the bytes of a file that it has written, so that the next reader gets
    them from the disk.
    """
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Writes the digests that ``find_fault`` compares the files ``names`` of a folder with."""
    digests = {name: file_digest(folder / name) for name in names}
    (folder / DIGESTS).write_text(json.dumps(digests))


def find_fault(folder: Path) -> str:
    """What is wrong with the files of a folder that ``write_digests`` has sealed; empty where they
    are as they were written. Cost: reading them.
    """
    try:
        digests: dict[str, str] = dict(json.loads((folder / DIGESTS).read_text()))
        for name, digest in digests.items():
            if file_digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or folder).name} can't be read ({error.strerror})"
    except (ValueError, TypeError):
        return f"{DIGESTS} has other bytes than were written"
    return "" if digests else f"{DIGESTS} is empty"
