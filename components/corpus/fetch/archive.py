"""Archives that a data root can be filled from, as the catalogue describes them.

In: ``catalogue/archive.yaml`` (by data root: the address, and of each file the folder in it, its
bytes and MD5, the hours, utterances and words of that folder). Out: typed entries. Nothing is
downloaded or opened here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import Field

from components.config import catalogue
from components.config.ranges import NonNegativeFloat, NonNegativeInt, NumBytes, PositiveInt
from components.config.schema import STRICT, parse_as
from components.runtime.settings import openslr_mirror

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class ArchiveEntry:
    """One file of a collection in the catalogue. Without ``md5`` the archive is not used until one
    is entered.
    """

    __pydantic_config__ = STRICT
    folder: Annotated[
        str,
        Field(
            description="Path inside it, which is taken; below the data root it has the last of "
            "these names."
        ),
    ]
    bytes: Annotated[NumBytes | None, Field(description="Size; null: not known.")] = None
    md5: Annotated[str, Field(description="Digest, 32 hex digits.")] = ""
    hours: Annotated[
        NonNegativeFloat | dict[str, NonNegativeFloat] | None,
        Field(description="Of all recordings, or by the folder below it (train, dev, …)."),
    ] = None
    utterances: Annotated[
        NonNegativeInt | dict[str, NonNegativeInt] | None,
        Field(description="Number of all recordings, or by the folder below it."),
    ] = None
    words: Annotated[
        NonNegativeInt | None,
        Field(description="Of all its transcripts, as published: a scorer must count as many."),
    ] = None


@dataclass(frozen=True)
class ArchiveCollection:
    """The archives of one data root."""

    __pydantic_config__ = STRICT
    address: Annotated[
        str, Field(pattern="^https?://", description="URL of the folder of the files.")
    ]
    openslr: Annotated[
        PositiveInt,
        Field(description="Number at OpenSLR, by which a mirror names its folder."),
    ]
    files: dict[str, ArchiveEntry]
    card: Annotated[dict[str, Any], Field(description="For people; no stage reads it.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Archive:
    """One archive of a data root."""

    root: str  # name of the data root
    file: str  # file name
    url: str
    entry: ArchiveEntry

    @property
    def folder(self) -> str:
        """Name of the folder that it unpacks to, below the data root."""
        return PurePosixPath(self.entry.folder).name

    def hours(self, folder: str) -> float | None:
        """Hours of the recordings in a folder of the data root, as published; None if the entry
        does not tell.

        A folder deeper than those of the entry counts as the one that contains it.
        """
        return _amount_of(self.entry.hours, self._part(folder))

    def utterances(self, folder: str) -> int | None:
        """Number of those recordings, likewise."""
        return _amount_of(self.entry.utterances, self._part(folder))

    def _part(self, folder: str) -> str:
        """Name of the folder below the archive's own that is or contains ``folder``; empty for the
        archive's own.
        """
        return "/".join(PurePosixPath(folder).relative_to(self.folder).parts[:1])

    @property
    def catalogue_entry(self) -> str:
        """The place of the entry in the catalogue, for messages."""
        return f"catalogue/archive.yaml: {self.root}, {self.file}"

    @property
    def hint(self) -> str:
        """What to do if the archive can't be downloaded from its address."""
        return (
            "Set LIBRETTO_OPENSLR to the base address of a mirror that has it (or unset it), or "
            f"put {self.file}, or the folder '{self.folder}' of it, into the data root "
            f"'{self.root}' by hand."
        )


def _amount_of(amount: N | dict[str, N] | None, part: str) -> N | None:
    """The amount of ``part``, or the sum of all parts if ``part`` is empty; an amount without parts
    is that of every part.
    """
    if not isinstance(amount, dict):
        return amount
    return amount.get(part) if part else sum(amount.values())


def list_archives(root: str) -> list[Archive]:
    """The archives of a data root; none if the catalogue has none for it.

    Raises InputError for an entry that is malformed.
    """
    if root not in catalogue.names("archive"):
        return []
    data = catalogue.raw_entry("archive", root)
    collection = parse_as(ArchiveCollection, data, f"catalogue/archive.yaml: {root}")
    mirror = openslr_mirror()
    address = f"{mirror}/{collection.openslr}" if mirror else collection.address
    return [
        Archive(root, file, f"{address.rstrip('/')}/{file}", entry)
        for file, entry in collection.files.items()
    ]
