"""Archives: what a data root can be filled from, and unpacking them without trusting them.

In: ``catalogue/archive.yaml`` (by data root: the address, and of each file the folder that it
holds, its bytes and MD5, the hours, utterances and words in it). Out: that folder below the data
root, whole or not at all. An archive is data from elsewhere: a member that leads out of the folder,
a link or a device refuses the whole of it. Cost: about 200 MB of archive a second and core, where
the disk keeps up.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from components.config import catalogue
from components.config.errors import InputError
from components.config.schema import STRICT, parse_as
from components.runtime.progress import progress
from components.runtime.settings import openslr_mirror

N = TypeVar("N", int, float)
BLOCK = 1 << 20  # bytes read at a time
# What the libraries raise for a file that is no whole archive, or one that asks for a password.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class ArchiveContents:
    """One file of a collection. Where ``md5`` is not known the archive is not used until it is
    entered.
    """

    __pydantic_config__ = STRICT
    holds: str  # folder inside it that is taken; below the data root it has the last of these names
    bytes: int | None = None
    md5: str = ""
    hours: float | dict[str, float] | None = (
        None  # of its recordings: all, or by the folder below it (train, dev, …)
    )
    utterances: int | dict[str, int] | None = None  # likewise
    words: int | None = None  # of all its transcripts, as published: what a scorer must count


@dataclass(frozen=True)
class Collection:
    """The archives of one data root."""

    __pydantic_config__ = STRICT
    address: str  # folder that holds the files
    openslr: int  # number of the resource at OpenSLR, by which a mirror names its folder
    files: dict[str, ArchiveContents]
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """One archive of a data root."""

    root: str  # name of the data root
    file: str
    url: str
    packed: ArchiveContents

    @property
    def folder(self) -> str:
        """Name of what it unpacks to, below the data root."""
        return PurePosixPath(self.packed.holds).name

    def hours(self, folder: str) -> float | None:
        """Hours of the recordings in a folder of the data root, as published; None where the entry
        does not tell.

        A folder deeper than the entry tells counts as the one that holds it.
        """
        return _told(self.packed.hours, self._part(folder))

    def utterances(self, folder: str) -> int | None:
        """Number of those recordings, likewise."""
        return _told(self.packed.utterances, self._part(folder))

    def _part(self, folder: str) -> str:
        """Name of the folder below the archive's own that is or holds ``folder``; empty for the
        whole.
        """
        return "/".join(PurePosixPath(folder).relative_to(self.folder).parts[:1])

    @property
    def entry(self) -> str:
        """Where it stands in the catalogue, for messages."""
        return f"catalogue/archive.yaml: {self.root}, {self.file}"

    @property
    def hint(self) -> str:
        """What helps where an archive can't be had from its address."""
        return (
            f"Set LIBRETTO_OPENSLR to the base address of a mirror that has it (or unset it), or put {self.file}, or the folder "
            f"'{self.folder}' that it holds, into the data root '{self.root}' by hand."
        )


def _told(amount: N | dict[str, N] | None, part: str) -> N | None:
    """Of an amount by folder that of ``part``, or their sum for the whole; of one that stands for
    the whole that.
    """
    if not isinstance(amount, dict):
        return amount
    return amount.get(part) if part else sum(amount.values())


def archives(root: str) -> list[Archive]:
    """The archives of a data root, none where the catalogue knows of none."""
    if root not in catalogue.names("archive"):
        return []
    known = parse_as(
        Collection, catalogue.raw_entry("archive", root), f"catalogue/archive.yaml: {root}"
    )
    mirror = openslr_mirror()
    base = f"{mirror}/{known.openslr}" if mirror else known.address
    return [
        Archive(root, file, f"{base.rstrip('/')}/{file}", packed)
        for file, packed in known.files.items()
    ]


def md5_of(path: Path) -> str:
    """Hexadecimal MD5 (RFC 1321) of a file: what publishers of corpora give; it finds damage, it
    proves no origin.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as stream,
        progress("corpus", f"checking {path.name}", path.stat().st_size / 1e6, "MB") as bar,
    ):
        while block := stream.read(BLOCK):
            digest.update(block)
            bar.advance(len(block) / 1e6)
    return digest.hexdigest()


def check_room(archive: Archive, folder: Path, needed: int) -> None:
    """Raises InputError where less than ``needed`` bytes are free on the disk that holds
    ``folder``.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{archive.entry}: the disk of the data root is full: {needed:,} bytes are needed, "
            f"{free:,} are free.",
            subject=archive.file,
            hint=f"Make room, or move the data root '{archive.root}' to a larger disk.",
        )


def unpack(archive: Archive, packed: Path, folder: Path) -> Path:
    """Unpacks the file ``packed`` into the empty ``folder``; returns the folder in it that the
    entry says it holds.

    Raises InputError for a member that is no plain file or folder below ``folder``, for a broken
    archive, a full disk, and where the archive holds something else.
    """
    try:
        if archive.file.endswith(".zip"):
            _unzip(archive, packed, folder)
        else:
            _untar(archive, packed, folder)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(
            f"{archive.entry}: not a whole tar or zip: {error}.",
            subject=archive.file,
            hint=archive.hint,
        ) from None
    except OSError as error:  # the disk filled up, or the folder can't be written
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{archive.entry}: unpacking stopped with {free:,} bytes free: "
            f"{error.strerror or error}.",
            subject=archive.file,
            hint="Make room or mend the disk, then fetch again.",
        ) from None
    held = folder / archive.packed.holds
    if not held.is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{archive.entry}: the archive holds no folder '{archive.packed.holds}', but {found}.",
            subject=archive.file,
            hint="Correct 'holds' in the entry, or take the archive as published.",
        )
    return held


def _untar(archive: Archive, packed: Path, folder: Path) -> None:
    check_room(
        archive, folder, packed.stat().st_size
    )  # FLAC and noise hardly shrink: the least that it unpacks to
    shown = progress("corpus", f"unpacking {archive.file}", packed.stat().st_size / 1e6, "MB")
    with packed.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:*") as tar, shown as bar:
        tar.extraction_filter = getattr(
            tarfile, "data_filter", None
        )  # Python 3.11.3 and older know no filters
        while member := tar.next():
            _check_member(archive, member.name, member.isreg() or member.isdir())
            check_room(archive, folder, member.size)
            tar.extract(member, folder)
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps each: gigabytes for the millions of files of a large corpus
            bar.advance(stream.tell() / 1e6 - bar.done)


def _unzip(archive: Archive, packed: Path, folder: Path) -> None:
    with zipfile.ZipFile(packed) as zipped:
        members = zipped.infolist()
        check_room(archive, folder, sum(member.file_size for member in members))
        with progress("corpus", f"unpacking {archive.file}", len(members), "files") as bar:
            for member in members:
                kind = stat.S_IFMT(
                    member.external_attr >> 16
                )  # of Unix; 0 where the zip was not made there
                _check_member(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                zipped.extract(member, folder)
                bar.advance()


def _check_member(archive: Archive, name: str, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        fault = "leads out of the folder"
    elif not plain:
        fault = "is a link or a device"
    else:
        return
    raise InputError(
        f"{archive.entry}: the archive is refused: its member '{name}' {fault}.",
        subject=archive.file,
        hint="Nothing of it was kept. Take the archive as its publisher offers it.",
    )
