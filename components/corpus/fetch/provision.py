"""Fetching: the archives of a corpus's sources → folders below their data roots, each once.

In: a corpus and the archives of its data roots (``catalogue/archive.yaml``). Out: for each folder
that a source reads, the folder itself. What is there already, from here or from elsewhere, is taken
as it is; an archive that lies in the data root is checked and unpacked; else it is downloaded,
checked and unpacked. Downloads and what is being unpacked lie in ``.fetch`` below the data root and
leave it whole or not at all. Cost: the network's, then about a minute for 6 GB.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from components.config.errors import InputError, nearest
from components.corpus.fetch.archive import Archive, archives, md5_of, unpack
from components.corpus.fetch.download import download
from components.corpus.source import CorpusSource, collect_folders
from components.runtime.data_roots import data_root, local_root
from components.runtime.unit_cache import lock

BENCH = ".fetch"  # below the data root: what is being downloaded and unpacked
MARK = ".archive.json"  # in an unpacked folder: what it came from


def needed(sources: Iterable[tuple[str, CorpusSource]]) -> list[Archive]:
    """The archives that hold the folders of some sources (name, source), each once; raises
    InputError for a folder in none.
    """
    found: dict[tuple[str, str], Archive] = {}
    for name, root, folders in (
        (name, *read) for name, origin in sources for read in collect_folders(origin)
    ):
        known = archives(root)
        for folder in folders:
            holding = [
                archive
                for archive in known
                if folder == archive.folder or folder.startswith(f"{archive.folder}/")
            ]
            if not holding and not (data_root(root) / folder).is_dir():
                raise InputError(
                    f"source '{name}': no archive in catalogue/archive.yaml holds the folder '{folder}' of the data root "
                    f"'{root}'.",
                    subject=name,
                    hint=f"{nearest(folder, [archive.folder for archive in known])} "
                    "Or put the folder there by hand.",
                )
            found.update({(root, archive.file): archive for archive in holding})
    return list(found.values())


def provide(archive: Archive) -> str:
    """Sees to it that the archive's folder lies below the data root; returns what was done, in
    words.

    Raises InputError (wrong checksum, unsafe or broken archive, full disk, no such file) or
    TransientError (network).
    """
    root = local_root(archive.root, create=True)
    folder, bench = root / archive.folder, root / BENCH
    if folder.is_dir():
        return _recognised(archive, folder)
    try:
        bench.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{archive.entry}: nothing can be written to the data root {root}: {error.strerror}.",
            subject=archive.file,
            hint=f"Give the right to write there, or set another data root '{archive.root}'.",
        ) from None
    with lock(bench / archive.file):
        if folder.is_dir():  # another process was at it
            return _recognised(archive, folder)
        given, fetched, part = (
            root / archive.file,
            bench / archive.file,
            bench / f"{archive.file}.part",
        )
        by_hand = given.is_file()
        if not by_hand and not fetched.is_file():
            download(archive, part)
            part.rename(fetched)
        packed = given if by_hand else fetched
        check(archive, packed, by_hand)
        _place(archive, packed, bench / f"{archive.file}.unpacked", folder)
        fetched.unlink(missing_ok=True)  # a file put there by hand stays
    return "unpacked from the file that lay there" if by_hand else "fetched and unpacked"


def check(archive: Archive, packed: Path, by_hand: bool) -> None:
    """Raises InputError unless size and MD5 of the file are those of the catalogue; a wrong one of
    our own is taken away.
    """
    wanted, size = archive.packed, packed.stat().st_size
    digest = md5_of(packed) if wanted.bytes in (None, size) else ""
    if digest and not wanted.md5:
        raise InputError(
            f"{archive.entry}: no checksum is given, so it is not used. MD5 of {packed}: {digest}.",
            subject=archive.file,
            hint=(
                f"Compare it with the publisher's, enter 'md5: {digest}' and fetch again: "
                "the file is kept."
            ),
        )
    if digest and digest == wanted.md5:
        return
    if not by_hand:
        packed.unlink()
    what = (
        f"wrong checksum: MD5 {digest} of {packed} where {wanted.md5} is expected"
        if digest
        else (
            f"{packed} has {size:,} bytes where {wanted.bytes:,} are expected: half of it, or "
            "another file"
        )
    )
    raise InputError(
        f"{archive.entry}: {what}.",
        subject=archive.file,
        hint=(f"{'Take it away' if by_hand else 'It was taken away'}: fetch again. {archive.hint}"),
    )


def _place(archive: Archive, packed: Path, bench: Path, folder: Path) -> None:
    """Unpacks into ``bench`` and moves what the archive holds to ``folder`` when it is whole."""
    shutil.rmtree(bench, ignore_errors=True)  # of a run that was killed
    bench.mkdir()
    try:
        held = unpack(archive, packed, bench)
        (held / MARK).write_text(
            json.dumps({"file": archive.file, "md5": archive.packed.md5}) + "\n"
        )
        held.rename(folder)
    finally:
        shutil.rmtree(bench)


def _recognised(archive: Archive, folder: Path) -> str:
    mark = folder / MARK
    if not mark.is_file():
        return "is there, from elsewhere: taken as it is"
    digest = json.loads(mark.read_text())["md5"]
    if digest != archive.packed.md5:
        raise InputError(
            f"{archive.entry}: {folder} was unpacked from an archive with MD5 {digest}, the "
            f"entry says {archive.packed.md5}.",
            subject=archive.file,
            hint="Move the folder away and fetch again, or set the entry back.",
        )
    return "is there"
