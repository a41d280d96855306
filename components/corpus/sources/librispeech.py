"""A local folder in LibriSpeech's layout → its utterances, with the published transcripts.

In: ``<root>/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`` and
``<speaker>-<chapter>.trans.txt`` beside them (a line: id, space, text), as on
https://www.openslr.org/12; Multilingual LibriSpeech is laid out differently (kind ``mls``). Out:
every recording and every transcript, kept or rejected. Files of other names are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

from components.audio.sound import RATE
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus.listing import (
    AcceptanceRules,
    FileSource,
    ListedRecording,
    build_scan,
    check_recordings,
    check_speech_role,
    list_sizes_below,
    read_lines,
)
from components.corpus.manifest import Reject
from components.text.utterance import Utterance

AUDIO, TEXT = ".flac", ".trans.txt"
NAME = re.compile(r"(\w+)-(\w+)-\w+", re.ASCII)  # speaker, chapter, utterance


@dataclass(frozen=True)
class LibriSpeechSettings:
    __pydantic_config__ = STRICT
    kind: Literal["librispeech"]
    root: str  # name of the data root
    subsets: list[str]
    language: str = "en"
    rate: int = RATE  # Hz; a file of another rate is refused


class LibriSpeechSource(FileSource[LibriSpeechSettings]):
    """A source of kind ``librispeech``: recordings are mono and all of one rate."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(LibriSpeechSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)

    @cached_property
    def _files(self) -> dict[str, int]:
        """Size of each recording and transcript file, by path relative to the root."""
        sizes: dict[str, int] = {}
        for subset in self.settings.subsets:
            self._check_folder(subset)
            sizes |= list_sizes_below(self._root, subset, lambda path: path.endswith((AUDIO, TEXT)))
        if not any(path.endswith(AUDIO) for path in sizes):
            raise InputError(
                f"source '{self.name}': no {AUDIO} file lies in the subsets "
                f"{self.settings.subsets}.",
                subject=self.name,
                hint=(
                    f"See that the data root '{self.settings.root}' is the folder that "
                    "holds the subsets."
                ),
            )
        return sizes

    def list_folders(self) -> tuple[str, list[str]]:
        return self.settings.root, self.settings.subsets

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of recordings and transcript files, and the digest of the transcripts'
        content.
        """
        return build_scan(
            self._root, self._files, [path for path in self._files if path.endswith(TEXT)]
        )

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording, with its transcript, and every transcript without a recording."""
        rules = AcceptanceRules(self.role, rate=self.settings.rate, mono=True)
        return check_recordings(self.name, self._root, self._entries(), self._files, rules)

    def _entries(self) -> Sequence[ListedRecording]:
        """An entry a transcript line, and one a recording that no line names."""
        recordings = {path for path in self._files if path.endswith(AUDIO)}
        entries = [
            entry
            for path in sorted(self._files)
            if path.endswith(TEXT)
            for entry in self._lines(path)
        ]
        named = {entry.path for entry in entries}
        return entries + [self._entry(path, None) for path in sorted(recordings - named)]

    def _lines(self, path: str) -> Sequence[ListedRecording]:
        folder = PurePosixPath(path).parent
        pairs = (line.strip().partition(" ") for line in read_lines(self._root, path))
        return [self._entry(f"{folder}/{name}{AUDIO}", text) for name, _, text in pairs]

    def _entry(self, path: str, text: str | None) -> ListedRecording:
        place = PurePosixPath(path)
        name = NAME.fullmatch(place.stem)
        speaker = name[1] if name else ""
        fits = (
            name is not None
            and place.parts[-3:-1] == (name[1], name[2])
            and len(place.parts) == self._depth(place) + 3
        )
        fault = (
            ""
            if fits
            else f"wrong name: not <speaker>/<chapter>/<speaker>-<chapter>-<utterance>{AUDIO}"
        )
        return ListedRecording(place.stem, path, text, speaker, self.settings.language, fault)

    def _depth(self, place: PurePosixPath) -> int:
        """How many folders deep the subset stands that holds ``place``."""
        return next(
            len(PurePosixPath(subset).parts)
            for subset in self.settings.subsets
            if place.is_relative_to(subset)
        )
