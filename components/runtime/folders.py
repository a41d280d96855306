"""The files of a folder at any depth, and what in it cannot be read.

In: a folder on this machine, or in a bucket. Out: sizes and faults by path. No file is opened.
Links to folders are followed, each folder once, so that a link that leads back multiplies nothing.
Cost: one listing of each folder, or a request for each thousand files of a bucket.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.s3 import RemotePath

DANGLING = "missing file: a link that leads nowhere"
NOT_REGULAR = "no regular file"
NOT_TEXT = "wrong name: not UTF-8 text; rename it"
LISTED_TWICE = "a link to a folder that is listed already"


@dataclass(frozen=True)
class FolderListing:
    """What is in a folder; a path is relative to it, with slashes, and may be no valid text."""

    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each regular file, sorted
    faults: dict[str, str] = field(default_factory=dict)  # why a file can't be read
    unreadable: dict[str, str] = field(default_factory=dict)  # why a folder can't be read
    repeated: dict[str, str] = field(default_factory=dict)  # links to folders that are listed


def list_folder(folder: Path | RemotePath) -> FolderListing:
    """What is in ``folder`` at any depth; nothing where it does not exist."""
    if isinstance(folder, RemotePath):
        sizes = folder.file_sizes().items()
        return FolderListing(
            dict(sorted((path.relative_to(folder).as_posix(), size) for path, size in sizes))
        )
    listing = FolderListing()
    if folder.is_dir():
        _walk(folder, listing)
    return FolderListing(
        dict(sorted(listing.sizes.items())),
        dict(sorted(listing.faults.items())),
        dict(sorted(listing.unreadable.items())),
        dict(sorted(listing.repeated.items())),
    )


def printable(name: str) -> str:
    """A path's name as valid text: a byte that is no UTF-8 becomes its number."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _walk(folder: Path, listing: FolderListing) -> None:
    """Fills ``listing``: folders first, links to folders when all of them are listed."""
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        is_link = not folders
        below = links.popleft() if is_link else folders.popleft()
        path = os.path.join(folder, below)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                listing.repeated[below] = LISTED_TWICE
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(path))
        except OSError as error:
            listing.unreadable[below] = f"unreadable: {error.strerror}"
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            _add_entry(entry, name, listing, folders, links)


def _add_entry(
    entry: os.DirEntry[str],
    name: str,
    listing: FolderListing,
    folders: deque[str],
    links: deque[str],
) -> None:
    try:
        status = entry.stat()
    except OSError as error:  # also a link that leads to itself
        is_link = entry.is_symlink()
        listing.faults[name] = DANGLING if is_link else f"unreadable: {error.strerror}"
        return
    if stat.S_ISDIR(status.st_mode):
        (links if entry.is_symlink() else folders).append(name)
    elif not stat.S_ISREG(status.st_mode):
        listing.faults[name] = NOT_REGULAR
    else:
        listing.sizes[name] = status.st_size
