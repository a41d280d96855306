"""Folders of sound files without transcripts (kind ``clips``) → non-speech clips, or noise to mix
in: MUSAN, rooms, a folder of one's own.

In: every sound file below some folders of a data root, of any rate and number of channels; MUSAN's
``ANNOTATIONS`` say which music has vocals (https://www.openslr.org/17). Out: every clip, accepted
or rejected: one with vocals, or too short or long, is rejected with that reason. Files that are
left out by name are not a part of the source. Cost: that of ``components.corpus.inspection``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from components.audio.endings import is_recording
from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.ranges import NonNegativeFloat, PositiveFloat
from components.config.schema import STRICT, Unit
from components.corpus.files import FileSource, build_scan, list_sizes_below
from components.corpus.listing import AcceptanceRules, ListedRecording, check_recordings
from components.corpus.manifest import Reject
from components.corpus.source import check_room_role
from components.corpus.sources.table import unique_ids
from components.text.utterance import Utterance


@dataclass(frozen=True)
class ClipsSettings:
    """Settings of a source of kind ``clips``."""

    __pydantic_config__ = STRICT
    kind: Literal["clips"]
    root: Annotated[str, Field(description="Name of the data root.")]
    folders: Annotated[
        list[str], Field(description="Below the root; all files in them at any depth.")
    ]
    only: Annotated[
        str, Field(description="Shell pattern of the file names that are taken, without folder.")
    ] = "*"
    without: Annotated[
        list[str], Field(description="Shell patterns of paths below the root that are left out.")
    ] = field(default_factory=list)
    rooms: Annotated[
        bool,
        Field(
            description="Whether they are impulse responses of rooms: speech is convolved with "
            "them, they are never added to it."
        ),
    ] = False
    annotations: Annotated[
        str,
        Field(
            description="Name of MUSAN's lists beside the clips: a line has name, genres, Y or N "
            "for vocals, artist."
        ),
    ] = ""
    min_seconds: Annotated[
        NonNegativeFloat, Unit("s"), Field(description="Shorter clips are left out.")
    ] = 0.0
    max_seconds: Annotated[
        PositiveFloat, Unit("s"), Field(description="Longer clips are left out.")
    ] = float("inf")


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
        if self.settings.rooms:
            check_room_role(name, role)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Size of each clip and list of annotations, by path relative to the root."""
        sizes: dict[str, int] = {}
        for folder in self.settings.folders:
            self._check_folder(folder)
            sizes |= list_sizes_below(
                self._root,
                folder,
                lambda path: self._is_annotations(path) or self._is_selected(path),
            )
        if all(self._is_annotations(path) for path in sizes):
            raise InputError(
                f"source '{self.name}': the folders {self.settings.folders} have no sound file "
                "that it takes.",
                subject=self.name,
                hint=f"See 'only' and 'without', and the data root '{self.settings.root}'.",
            )
        return sizes

    def _is_selected(self, path: str) -> bool:
        is_sound = is_recording(PurePosixPath(path))
        return (
            is_sound
            and fnmatchcase(PurePosixPath(path).name, self.settings.only)
            and not any(fnmatchcase(path, pattern) for pattern in self.settings.without)
        )

    def _is_annotations(self, path: str) -> bool:
        return PurePosixPath(path).name == self.settings.annotations

    def list_folders(self) -> tuple[str, list[str]]:
        """Name of the data root, and the folders that are read."""
        return self.settings.root, self.settings.folders

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of clips and annotations, and the digest of the annotations' content."""
        annotations = [path for path in self._sizes if self._is_annotations(path)]
        return build_scan(self._root, self._sizes, annotations)

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every clip; an id is the file's name, with a digest of its path if two files share the
        name.
        """
        paths = sorted(path for path in self._sizes if not self._is_annotations(path))
        id_by_path = unique_ids(paths)
        recordings = [
            ListedRecording(
                id=id_by_path[path],
                path=path,
                text=None,
                speaker="",
                language="",
                fault=self._find_fault(path),
            )
            for path in paths
        ]
        rules = AcceptanceRules(
            self.role, min_seconds=self.settings.min_seconds, max_seconds=self.settings.max_seconds
        )
        return check_recordings(self.name, self._root, recordings, self._sizes, rules)

    def _find_fault(self, path: str) -> str:
        """Why a clip is refused by its annotation: a singing voice must not have an empty
        transcript.
        """
        if not self.settings.annotations:
            return ""
        clip = PurePosixPath(path)
        has_vocals = self._vocals.get((clip.parent.as_posix(), clip.stem))
        if has_vocals is None:
            return (
                f"not annotated: no line of {self.settings.annotations} beside it names it "
                "with Y or N for vocals"
            )
        return f"vocals: {self.settings.annotations} says so" if has_vocals else ""

    @cached_property
    def _vocals(self) -> dict[tuple[str, str], bool]:
        """Whether a clip has vocals, by (folder, name); lines that do not tell are left out."""
        vocals: dict[tuple[str, str], bool] = {}
        for path in self._sizes:
            if self._is_annotations(path):
                for columns in self._read_annotations(path):
                    if len(columns) > 2 and columns[2] in ("Y", "N"):
                        folder = PurePosixPath(path).parent.as_posix()
                        vocals[folder, columns[0]] = columns[2] == "Y"
        return vocals

    def _read_annotations(self, path: str) -> list[list[str]]:
        # "replace": only names and Y or N are used
        text = (self._root / path).read_text(encoding="utf-8", errors="replace")
        return [line.split() for line in text.removeprefix("\ufeff").split("\n")]
