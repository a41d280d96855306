"""Files below a data root: their sizes, the lines of transcripts, the scan of a source, and the
base class of the sources that read files.

In: a data root (a local folder or a bucket) and relative paths. Out: sizes by path, lines, a scan
for ``data/sources``. Audio is never opened here. Cost: one listing of the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError, nearest
from components.corpus.source import parse_settings
from components.runtime.data_roots import data_root
from components.runtime.folders import list_folder, printable
from components.runtime.hashing import data_digest, file_digest
from components.runtime.s3 import RemotePath, StoredFile

log = logging.getLogger(__name__)
# hint where a folder is missing
FETCH_HINT = "What is published comes with 'python -m components.corpus fetch'."


class HasRoot(Protocol):
    """Settings that name a data root."""

    @property
    def root(self) -> str:
        """Name of the data root."""


SettingsT = TypeVar("SettingsT", bound=HasRoot)


class FileSource(Generic[SettingsT]):
    """What the kinds of sources that read files below a data root have in common."""

    def __init__(
        self, cls: type[SettingsT], name: str, role: str, settings: dict[str, Any]
    ) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(cls, name, role, settings)

    @cached_property
    def _root(self) -> Path | RemotePath:
        return data_root(self.settings.root)

    def locate(self, path: str) -> StoredFile:
        """The file of a path of the manifest."""
        return self._root / path

    def _check_folder(self, folder: str) -> None:
        """Raises InputError with the nearest name if the data root has no such folder."""
        if not (self._root / folder).is_dir():
            parent = (self._root / folder).parent
            siblings = (
                [
                    path.relative_to(str(self._root)).as_posix()
                    for path in parent.iterdir()
                    if path.is_dir()
                ]
                if parent.is_dir()
                else []
            )
            raise InputError(
                f"source '{self.name}': the data root '{self.settings.root}' has no folder "
                f"'{folder}'.",
                subject=folder,
                hint=f"{nearest(folder, siblings)} {FETCH_HINT}",
            )


def list_sizes_below(
    root: Path | RemotePath, folder: str, accepts: Callable[[str], bool]
) -> dict[str, int]:
    """Size in bytes of each file at any depth of ``folder``, by its path relative to ``root``, in
    sorted order.

    Only paths for which ``accepts(path)`` is true are listed, among them those that can't be read,
    with 0 bytes: their inspection says why. Links to folders are followed, each folder once; a
    folder that does not exist has no files. Raises InputError for a folder that can't be read.
    """
    listing = list_folder(root / folder)
    for path, reason in listing.unreadable.items():
        raise InputError(
            f"{root / folder / path}: {reason}.",
            subject=str(root / folder / path),
            hint="Make it readable, or move it out of the data root.",
        )
    for path, reason in listing.repeated.items():
        log.warning("%s: left out: %s", root / folder / path, reason)
    sizes = listing.sizes | dict.fromkeys(listing.faults, 0)
    sizes = {
        printable(path): size if path == printable(path) else 0 for path, size in sizes.items()
    }
    below = "" if folder == "." else f"{PurePosixPath(folder)}/"
    return {f"{below}{path}": sizes[path] for path in sorted(sizes) if accepts(f"{below}{path}")}


def read_sizes(root: Path | RemotePath, paths: Iterable[str]) -> dict[str, int]:
    """Size in bytes of those of the ``paths`` below ``root`` that are files, in sorted order. A
    bucket is listed once, not asked for each path.
    """
    if isinstance(root, RemotePath):
        return list_sizes_below(root, ".", set(paths).__contains__)
    return {path: (root / path).stat().st_size for path in sorted(paths) if (root / path).is_file()}


def read_lines(root: Path | RemotePath, path: str) -> Iterator[str]:
    """The lines of a text file below ``root`` that are not blank, one by one: those of English MLS
    are 2 GB. A line ends at a line feed alone, since texts hold other separators; a byte order mark
    is no text. Raises InputError if the file is not UTF-8.
    """
    try:
        with (root / path).open(encoding="utf-8-sig", newline="\n") as stream:
            for line in stream:
                if line.strip():
                    yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not UTF-8 text.", subject=path, hint="Use the file as published."
        ) from None


def build_scan(
    root: Path | RemotePath, sizes: dict[str, int], texts: Iterable[str]
) -> dict[str, Any]:
    """The scan of a file source: relative paths and sizes, one digest of the files in ``texts``
    (which are read), one of all.
    """
    files = [[path, size] for path, size in sorted(sizes.items())]
    text_digest = data_digest([[path, file_digest(root / path)] for path in sorted(texts)])
    return {"files": files, "texts": text_digest, "digest": data_digest([files, text_digest])}


def check_speech_role(name: str, role: str, kind: str) -> None:
    """Raises InputError if a kind that gives speech with transcripts is in a role without
    transcripts.
    """
    if role not in SPEECH_ROLES:
        raise InputError(
            f"source '{name}': the kind '{kind}' gives transcribed speech, which the role "
            f"'{role}' does not take.",
            subject=name,
            hint=(
                "List it as 'clips' or as 'table' without a text column, or give it another role."
            ),
        )
