"""The machine that a plan is for: memory, processes, and the free space of its disks.

In: runtime settings, DVC's configuration and the file systems. Out: plain values, so that a run can
be planned for a machine that is not this one. Which links are possible between two folders is tried
with an empty file. Cost: 0.1 s, and the import of torch where the device is a GPU.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.runtime.dvc_cache import read_dvc_cache
from components.runtime.settings import device, work_root, workers
from components.runtime.unit_cache import FICLONE


@dataclass(frozen=True)
class Memory:
    """What a stage may use: a card's memory, or this machine's."""

    name: str
    num_bytes: float
    num_processes: int = 1  # that may compute side by side, each with weights of its own
    is_processor: bool = False  # no GPU computes: each process has a core


@dataclass(frozen=True)
class Disk:
    """A file system."""

    folders: tuple[Path, ...]  # on it; a folder that is not listed is on the disk of its parent
    free_bytes: float


@dataclass(frozen=True)
class Machine:
    """What a run may use where it is planned."""

    name: str
    memory_bytes: float  # of the GPU where the device is one, else of the machine
    num_workers: int  # processes that compute at once
    output_folders: tuple[Path, ...]  # where an output takes up space: one for each copy
    disks: tuple[Disk, ...]
    is_processor: bool = False  # no GPU computes

    def disk_of(self, folder: Path) -> Disk:
        """The disk that a folder is on, or will be on; raises KeyError where none is known."""
        for parent in (folder, *folder.parents):
            for disk in self.disks:
                if parent in disk.folders:
                    return disk
        raise KeyError(folder)


def read_machine(output_folders: Sequence[Path], other_folders: Sequence[Path]) -> Machine:
    """This machine, with the disks of ``output_folders`` and of ``other_folders``."""
    folders: dict[int, list[Path]] = {}
    for folder in map(existing_parent, (*output_folders, *other_folders)):
        folders.setdefault(folder.stat().st_dev, []).append(folder)
    disks = tuple(
        Disk(tuple(dict.fromkeys(group)), float(shutil.disk_usage(group[0]).free))
        for group in folders.values()
    )
    if device() == "cpu":
        memory_bytes = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        return Machine("this machine", memory_bytes, workers(), tuple(output_folders), disks, True)
    import torch

    card = torch.cuda.get_device_properties(device())
    return Machine(card.name, float(card.total_memory), 1, tuple(output_folders), disks)


def find_output_folders() -> tuple[Path, ...]:
    """The folders in which a stage's output takes up space of its own: one for each copy of it.

    A finished unit is in the work cache, a stage links or copies it into the workspace, and DVC
    moves it into its cache and links or copies it back by the link types of its configuration.
    """
    cache_folder, link_types = read_dvc_cache()
    work, workspace, cache = existing_parent(work_root()), Path.cwd(), existing_parent(cache_folder)
    has_links, has_clones = can_link(workspace, cache), can_clone(workspace, cache)
    # DVC moves an output into its cache as a clone, as a hard link only where that type is the
    # first, else as a copy; then it checks the output out from there.
    is_shared = has_clones or (has_links and link_types[0] == "hardlink")
    folders = [work]
    if not (is_shared and can_link(work, workspace)):
        folders.append(cache)
    needs_no_copy = (
        (has_links and "hardlink" in link_types)
        or (has_clones and "reflink" in link_types)
        or "symlink" in link_types
    )
    if not needs_no_copy:
        folders.append(workspace)
    return tuple(folders)


def can_link(source: Path, target: Path) -> bool:
    """Whether a file of the folder ``source`` can be a hard link in the folder ``target``."""
    try:
        with tempfile.NamedTemporaryFile(dir=source) as file:
            link = target / f".{Path(file.name).name}.link"
            os.link(file.name, link)
            link.unlink()
        return True
    except OSError:
        return False


def can_clone(source: Path, target: Path) -> bool:
    """Whether a file of the folder ``source`` can be cloned (reflink) into the folder
    ``target``.
    """
    try:
        with (
            tempfile.NamedTemporaryFile(dir=source) as file,
            tempfile.NamedTemporaryFile(dir=target) as clone,
        ):
            fcntl.ioctl(clone.fileno(), FICLONE, file.fileno())
        return True
    except OSError:
        return False


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists: what is created later is on its
    disk.
    """
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
