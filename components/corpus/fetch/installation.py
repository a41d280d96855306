"""Installation: the archives of a corpus's sources → folders below their data roots, each once.

In: a corpus and the archives of its data roots (``catalogue/archive.yaml``). Out: each folder that
a source reads. A folder that exists is taken as it is; an archive that is in the data root is
checked and unpacked; any other is downloaded, checked and unpacked. Downloads and half-unpacked
folders are in ``.fetch`` below the data root, and only complete folders leave it. Cost: the
network's, then about a minute for 6 GB.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from components.config import catalogue
from components.config.errors import InputError, nearest
from components.corpus.fetch.archive import Archive, list_archives
from components.corpus.fetch.download import download
from components.corpus.fetch.extraction import extract, md5_of
from components.corpus.scan import list_sources
from components.corpus.source import CorpusSource, build_source, collect_folders
from components.runtime.data_roots import data_root, local_root
from components.runtime.durability import rename
from components.runtime.json_files import read_json
from components.runtime.unit_cache import lock

logger = logging.getLogger(__name__)

WORK_FOLDER = ".fetch"  # below the data root: downloads, and what is being unpacked
MARK = ".archive.json"  # in an unpacked folder: the archive that it came from


def fetch_corpus(corpus: str, role: str | None = None) -> None:
    """Installs the archives that the sources of a corpus, or of one of its roles, read."""
    roles = [role] if role else list(catalogue.ROLES)
    sources = [
        (name, build_source(name, source_role, settings))
        for source_role in roles
        for name, settings in list_sources(corpus, source_role).items()
    ]
    archives = required_archives(sources)
    if not archives:
        logger.info("corpus '%s': nothing to fetch", corpus)
    for archive in archives:
        logger.info("%s: %s: %s", archive.root, archive.folder, install_archive(archive))


def required_archives(sources: Iterable[tuple[str, CorpusSource]]) -> list[Archive]:
    """The archives that contain the folders of some (name, source) pairs, each once.

    Raises InputError for a folder that is in none and does not exist.
    """
    required: dict[tuple[str, str], Archive] = {}
    for name, source in sources:
        for root, folders in collect_folders(source):
            archives = list_archives(root)
            for folder in folders:
                matching = [
                    archive
                    for archive in archives
                    if folder == archive.folder or folder.startswith(f"{archive.folder}/")
                ]
                if not matching and not (data_root(root) / folder).is_dir():
                    near = nearest(folder, [archive.folder for archive in archives])
                    raise InputError(
                        f"source '{name}': no archive in catalogue/archive.yaml has the folder "
                        f"'{folder}' of the data root '{root}'.",
                        subject=name,
                        hint=f"{near} Or put the folder there by hand.",
                    )
                required.update({(root, archive.file): archive for archive in matching})
    return list(required.values())


def install_archive(archive: Archive) -> str:
    """Ensures that the archive's folder is below the data root; returns what was done, in words.

    Raises InputError (wrong checksum, unsafe or broken archive, full disk, no such file) or
    TransientError (network).
    """
    root = local_root(archive.root, create=True)
    folder, work_folder = root / archive.folder, root / WORK_FOLDER
    if folder.is_dir():
        return _recognise(archive, folder)
    try:
        work_folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{archive.catalogue_entry}: the data root {root} can't be written: {error.strerror}.",
            subject=archive.file,
            hint=f"Allow writing there, or set another data root '{archive.root}'.",
        ) from None
    with lock(work_folder / archive.file):
        if folder.is_dir():  # another process installed it
            return _recognise(archive, folder)
        user_file, fetched = root / archive.file, work_folder / archive.file
        is_from_user = user_file.is_file()
        if not is_from_user and not fetched.is_file():
            part = work_folder / f"{archive.file}.part"
            download(archive, part)
            rename(part, fetched)
        packed = user_file if is_from_user else fetched
        check_file(archive, packed, is_from_user)
        _extract_into(archive, packed, work_folder / f"{archive.file}.unpacked", folder)
        fetched.unlink(missing_ok=True)  # the user's file stays
    return "unpacked from the file in the data root" if is_from_user else "fetched and unpacked"


def check_file(archive: Archive, packed: Path, is_from_user: bool) -> None:
    """Raises InputError unless size and MD5 of the file are those of the catalogue; a wrong file
    that was downloaded is deleted.
    """
    entry, size = archive.entry, packed.stat().st_size
    digest = md5_of(packed) if entry.bytes in (None, size) else ""
    if digest and not entry.md5:
        raise InputError(
            f"{archive.catalogue_entry}: it has no checksum, so the file is not used. MD5 of "
            f"{packed}: {digest}.",
            subject=archive.file,
            hint=(
                f"Compare it with the publisher's, enter 'md5: {digest}' and fetch again: "
                "the file is kept."
            ),
        )
    if digest and digest == entry.md5:
        return
    if not is_from_user:
        packed.unlink()
    fault = (
        f"wrong checksum: MD5 {digest} of {packed} where {entry.md5} is expected"
        if digest
        else (
            f"{packed} has {size:,} bytes where {entry.bytes:,} are expected: it is incomplete, or "
            "another file"
        )
    )
    remedy = "Delete it and" if is_from_user else "It was deleted:"
    raise InputError(
        f"{archive.catalogue_entry}: {fault}.",
        subject=archive.file,
        hint=f"{remedy} fetch again. {archive.hint}",
    )


def _extract_into(archive: Archive, packed: Path, work_folder: Path, folder: Path) -> None:
    """Unpacks into ``work_folder`` and moves the archive's folder to ``folder`` when it is
    complete.
    """
    shutil.rmtree(work_folder, ignore_errors=True)  # of a run that was killed
    work_folder.mkdir()
    try:
        extracted = extract(archive, packed, work_folder)
        mark = {"file": archive.file, "md5": archive.entry.md5}
        (extracted / MARK).write_text(json.dumps(mark) + "\n")
        rename(extracted, folder)
    finally:
        shutil.rmtree(work_folder)


REFETCH = "Move the folder away and fetch again; or remove this file, if the folder is right."


def _recognise(archive: Archive, folder: Path) -> str:
    """What is known of a folder that exists; raises InputError if it came from another archive than
    that of the catalogue.
    """
    mark = folder / MARK
    if not mark.is_file():
        return "exists, from elsewhere: taken as it is"
    digest = read_json(mark, keys={"md5": str}, hint=REFETCH)["md5"]
    if digest != archive.entry.md5:
        raise InputError(
            f"{archive.catalogue_entry}: {folder} was unpacked from an archive with MD5 {digest}, "
            f"the entry says {archive.entry.md5}.",
            subject=archive.file,
            hint="Move the folder away and fetch again, or restore the entry.",
        )
    return "exists"
