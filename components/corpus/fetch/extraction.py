"""Extraction of archives from elsewhere, without trusting them, and their checksums.

In: a tar or zip file. Out: the folder in it that the catalogue names, complete or not at all. A
member that leads out of the folder, a link or a device refuses the archive. Cost: about 200 MB of
archive a second and core, if the disk is fast enough.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from components.config.errors import InputError
from components.corpus.fetch.archive import Archive
from components.corpus.tar_headers import BoundedTarInfo
from components.runtime.progress import progress

READ_SIZE = 1 << 20  # bytes read at a time
# What the libraries raise for a file that is not a complete archive, or that needs a password.
EXTRACTION_ERRORS = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def md5_of(path: Path) -> str:
    """Hexadecimal MD5 (RFC 1321) of a file: what publishers of corpora give. It finds damage; it
    does not prove the origin.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with (
        path.open("rb") as stream,
        progress("corpus", f"checking {path.name}", path.stat().st_size / 1e6, "MB") as bar,
    ):
        while block := stream.read(READ_SIZE):
            digest.update(block)
            bar.advance(len(block) / 1e6)
    return digest.hexdigest()


def check_free_space(archive: Archive, folder: Path, num_bytes: int) -> None:
    """Raises InputError if less than ``num_bytes`` are free on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{archive.catalogue_entry}: the disk of the data root is full: {num_bytes:,} bytes "
            f"are needed, {free:,} are free.",
            subject=archive.file,
            hint=f"Make room, or move the data root '{archive.root}' to a larger disk.",
        )


def extract(archive: Archive, packed: Path, folder: Path) -> Path:
    """Unpacks the file ``packed`` into the empty ``folder``; returns the folder in it that the
    entry names.

    Raises InputError for a member that is not a plain file or folder below ``folder``, for a broken
    archive, a full disk, and if the archive does not contain that folder.
    """
    try:
        if archive.file.endswith(".zip"):
            _extract_zip(archive, packed, folder)
        else:
            _extract_tar(archive, packed, folder)
    except InputError:
        raise
    except EXTRACTION_ERRORS as error:
        raise InputError(
            f"{archive.catalogue_entry}: not a complete tar or zip: {error}.",
            subject=archive.file,
            hint=archive.hint,
        ) from None
    except OSError as error:  # the disk filled up, or the folder can't be written
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{archive.catalogue_entry}: unpacking stopped with {free:,} bytes free: "
            f"{error.strerror or error}.",
            subject=archive.file,
            hint="Make room or repair the disk, then fetch again.",
        ) from None
    extracted = folder / archive.entry.folder
    if not extracted.is_dir():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{archive.catalogue_entry}: the archive has no folder '{archive.entry.folder}', "
            f"but {names}.",
            subject=archive.file,
            hint="Correct 'folder' in the entry, or use the archive as published.",
        )
    return extracted


def _extract_tar(archive: Archive, packed: Path, folder: Path) -> None:
    size = packed.stat().st_size
    check_free_space(archive, folder, size)  # the least that FLAC and noise unpack to
    with (
        packed.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r:*", tarinfo=BoundedTarInfo) as tar,
        progress("corpus", f"unpacking {archive.file}", size / 1e6, "MB") as bar,
    ):
        # Python 3.11.3 and older have no filters
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        while member := tar.next():
            _check_member(archive, member.name, member.isreg() or member.isdir())
            check_free_space(archive, folder, member.size)
            tar.extract(member, folder)
            # It keeps each member: gigabytes for the millions of files of a large corpus.
            tar.members.clear()  # type: ignore[attr-defined]
            bar.advance(stream.tell() / 1e6 - bar.done)


def _extract_zip(archive: Archive, packed: Path, folder: Path) -> None:
    with zipfile.ZipFile(packed) as zipped:
        members = zipped.infolist()
        check_free_space(archive, folder, sum(member.file_size for member in members))
        with progress("corpus", f"unpacking {archive.file}", len(members), "files") as bar:
            for member in members:
                # file type of Unix; 0 in a zip that was written elsewhere
                kind = stat.S_IFMT(member.external_attr >> 16)
                is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                _check_member(archive, member.filename, is_plain)
                zipped.extract(member, folder)
                bar.advance()


def _check_member(archive: Archive, name: str, is_plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        fault = "leads out of the folder"
    elif not is_plain:
        fault = "is a link or a device"
    else:
        return
    raise InputError(
        f"{archive.catalogue_entry}: the archive is refused: its member '{name}' {fault}.",
        subject=archive.file,
        hint="Nothing of it was unpacked. Use the archive as its publisher offers it.",
    )
