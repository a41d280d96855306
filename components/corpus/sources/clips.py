"""Folders of sound files without transcripts → non-speech clips, or noise to mix in: MUSAN, rooms,
a folder of one's own.

In: every sound file below some folders of a data root, of any rate and any number of channels;
MUSAN's ``ANNOTATIONS`` say which music has vocals (https://www.openslr.org/17). Out: every clip,
kept or rejected: one with vocals, or too short or long, is rejected with that reason. Files left
out by name are no part of the source. Cost: as ``components.corpus.listing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus.listing import (
    AcceptanceRules,
    FileSource,
    ListedRecording,
    build_scan,
    check_recordings,
    list_sizes_below,
)
from components.corpus.manifest import Reject
from components.corpus.sources.table import ids_of
from components.text.utterance import Utterance

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")


@dataclass(frozen=True)
class ClipsSettings:
    __pydantic_config__ = STRICT
    kind: Literal["clips"]
    root: str  # name of the data root
    folders: list[str]  # below it; all that lies in them at any depth
    only: str = "*"  # shell pattern of the file names that are taken, without folder
    without: list[str] = field(
        default_factory=list
    )  # shell patterns of paths below the root that are left out
    rooms: bool = (
        False  # impulse responses of rooms: speech is heard in them, they are never added to it
    )
    # name of MUSAN's lists beside the clips: a line has name, genres, Y or N for vocals, artist
    annotations: str = ""
    min_seconds: float = 0.0
    max_seconds: float = float("inf")


class ClipsSource(FileSource[ClipsSettings]):
    """A source of kind ``clips``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(ClipsSettings, name, role, settings)
        if role in SPEECH_ROLES:
            raise InputError(
                f"source '{name}': the kind 'clips' has no transcripts, which the role "
                f"'{role}' needs.",
                subject=name,
                hint="List speech as kind 'table', or give it another role.",
            )
        if self.settings.rooms and role != "noise":
            raise InputError(
                f"source '{name}': rooms are no sound by themselves, so the role '{role}' has "
                "no use for them.",
                subject=name,
                hint="List them in the role noise.",
            )

    @cached_property
    def _files(self) -> dict[str, int]:
        """Size of each clip and list of annotations, by path relative to the root."""
        sizes: dict[str, int] = {}
        for wanted in self.settings.folders:
            self._check_folder(wanted)
            sizes |= list_sizes_below(
                self._root, wanted, lambda path: not self._is_clip(path) or self._takes(path)
            )
        if not any(self._is_clip(path) for path in sizes):
            raise InputError(
                f"source '{self.name}': no sound file that it takes lies in the folders "
                f"{self.settings.folders}.",
                subject=self.name,
                hint=f"See 'only' and 'without', and the data root '{self.settings.root}'.",
            )
        return sizes

    def _takes(self, path: str) -> bool:
        sound = path.lower().endswith(SUFFIXES) and fnmatchcase(
            PurePosixPath(path).name, self.settings.only
        )
        return sound and not any(fnmatchcase(path, pattern) for pattern in self.settings.without)

    def _is_clip(self, path: str) -> bool:
        return PurePosixPath(path).name != self.settings.annotations

    def list_folders(self) -> tuple[str, list[str]]:
        return self.settings.root, self.settings.folders

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of clips and annotations, and the digest of the annotations' content."""
        return build_scan(
            self._root, self._files, [path for path in self._files if not self._is_clip(path)]
        )

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every clip; an id is the file's name, with a digest of its path where two files share
        that.
        """
        paths = sorted(path for path in self._files if self._is_clip(path))
        ids = ids_of(paths)
        entries = [
            ListedRecording(ids[path], path, None, "", "", self._fault(path)) for path in paths
        ]
        rules = AcceptanceRules(
            self.role, min_seconds=self.settings.min_seconds, max_seconds=self.settings.max_seconds
        )
        return check_recordings(self.name, self._root, entries, self._files, rules)

    def _fault(self, path: str) -> str:
        """Why a clip is refused by its annotation: an empty transcript must not stand over a
        singing voice.
        """
        if not self.settings.annotations:
            return ""
        place = PurePosixPath(path)
        vocals = self._vocals.get((place.parent.as_posix(), place.stem))
        if vocals is None:
            return (
                f"not annotated: no line of {self.settings.annotations} beside it names it "
                "with Y or N for vocals"
            )
        return f"vocals: {self.settings.annotations} says so" if vocals else ""

    @cached_property
    def _vocals(self) -> dict[tuple[str, str], bool]:
        """Whether a clip has vocals, by folder and name; lines that don't say so are not in it."""
        said: dict[tuple[str, str], bool] = {}
        for path in self._files:
            if not self._is_clip(path):
                for fields in self._annotated(path):
                    if len(fields) > 2 and fields[2] in ("Y", "N"):
                        said[PurePosixPath(path).parent.as_posix(), fields[0]] = fields[2] == "Y"
        return said

    def _annotated(self, path: str) -> Sequence[list[str]]:
        text = (self._root / path).read_text(
            encoding="utf-8", errors="replace"
        )  # only names and Y or N are read of it
        return [line.split() for line in text.splitlines()]
