"""A folder in LibriSpeech's layout (kind ``librispeech``) → its utterances, with the published
transcripts.

In: ``<root>/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac`` and
``<speaker>-<chapter>.trans.txt`` beside them (a line: id, space, text), as on
https://www.openslr.org/12; Multilingual LibriSpeech has another layout (kind ``mls``). Out: every
recording and every transcript of the speakers that the settings name, accepted or rejected. Files
of other names are ignored. Cost: that
of ``components.corpus.inspection``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from components.audio.sound import RATE
from components.config.errors import InputError
from components.config.ranges import NonNegativeInt, SampleRate
from components.config.schema import STRICT, Unit
from components.corpus.files import (
    FileSource,
    build_scan,
    check_speech_role,
    list_sizes_below,
    read_lines,
)
from components.corpus.listing import AcceptanceRules, ListedRecording, check_recordings
from components.corpus.manifest import Reject
from components.text.utterance import Utterance

AUDIO, TEXT = ".flac", ".trans.txt"
NAME = re.compile(r"(\w+)-(\w+)-\w+", re.ASCII)  # speaker, chapter, utterance


def check_fold(fold: list[int]) -> list[int]:
    """The pair, where its first number is below the second."""
    if fold[0] >= fold[1]:
        raise ValueError(f"the fold {fold[0]} is not below the number of folds, {fold[1]}")
    return fold


@dataclass(frozen=True)
class LibriSpeechSettings:
    """Settings of a source of kind ``librispeech``."""

    __pydantic_config__ = STRICT
    kind: Literal["librispeech"]
    root: Annotated[str, Field(description="Name of the data root.")]
    subsets: Annotated[list[str], Field(description="Folders below the root.")]
    language: Annotated[str, Field(description="Of every utterance.")] = "en"
    rate: Annotated[
        SampleRate, Unit("Hz"), Field(description="A file of another rate is refused.")
    ] = RATE
    speaker_fold: Annotated[
        list[NonNegativeInt],
        Field(min_length=2, max_length=2),
        AfterValidator(check_fold),
        Field(
            description="[fold, number of folds]: only the speakers whose place in the sorted list "
            "of all is the fold, modulo the number; both count from 0."
        ),
    ] = field(default_factory=lambda: [0, 1])


class LibriSpeechSource(FileSource[LibriSpeechSettings]):
    """A source of kind ``librispeech``: recordings are mono and all of one rate."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(LibriSpeechSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Size of each recording and transcript file, by path relative to the root."""
        sizes: dict[str, int] = {}
        for subset in self.settings.subsets:
            self._check_folder(subset)
            sizes |= list_sizes_below(self._root, subset, lambda path: path.endswith((AUDIO, TEXT)))
        if not any(path.endswith(AUDIO) for path in sizes):
            raise InputError(
                f"source '{self.name}': the subsets {self.settings.subsets} have no {AUDIO} file.",
                subject=self.name,
                hint=(
                    f"Check that the data root '{self.settings.root}' is the folder that has the "
                    "subsets."
                ),
            )
        return sizes

    def list_folders(self) -> tuple[str, list[str]]:
        """Name of the data root, and the subsets."""
        return self.settings.root, self.settings.subsets

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of recordings and transcript files, and the digest of the transcripts'
        content.
        """
        transcripts = [path for path in self._sizes if path.endswith(TEXT)]
        return build_scan(self._root, self._sizes, transcripts)

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording, with its transcript, and every transcript without a recording."""
        rules = AcceptanceRules(self.role, rate=self.settings.rate, needs_mono=True)
        return check_recordings(self.name, self._root, self._list_recordings(), self._sizes, rules)

    def _list_recordings(self) -> list[ListedRecording]:
        """One for each transcript line, and one for each recording that no line names."""
        audio_paths = {path for path in self._sizes if path.endswith(AUDIO)}
        recordings = [
            recording
            for path in sorted(self._sizes)
            if path.endswith(TEXT)
            for recording in self._read_transcripts(path)
        ]
        transcribed = {recording.path for recording in recordings}
        recordings += [
            self._list_recording(path, None) for path in sorted(audio_paths - transcribed)
        ]
        fold, num_folds = self.settings.speaker_fold
        speakers = sorted({recording.speaker for recording in recordings})[fold::num_folds]
        return [recording for recording in recordings if recording.speaker in set(speakers)]

    def _read_transcripts(self, path: str) -> list[ListedRecording]:
        folder = PurePosixPath(path).parent
        pairs = (line.strip().partition(" ") for line in read_lines(self._root, path))
        return [self._list_recording(f"{folder}/{name}{AUDIO}", text) for name, _, text in pairs]

    def _list_recording(self, path: str, text: str | None) -> ListedRecording:
        audio = PurePosixPath(path)
        name = NAME.fullmatch(audio.stem)
        has_valid_name = (
            name is not None
            and audio.parts[-3:-1] == (name[1], name[2])
            and len(audio.parts) == self._subset_depth(audio) + 3
        )
        expected_name = f"<speaker>/<chapter>/<speaker>-<chapter>-<utterance>{AUDIO}"
        return ListedRecording(
            id=audio.stem,
            path=path,
            text=text,
            speaker=name[1] if name else "",
            language=self.settings.language,
            fault="" if has_valid_name else f"wrong name: not {expected_name}",
        )

    def _subset_depth(self, path: PurePosixPath) -> int:
        """Number of folders from the root to the subset that contains ``path``."""
        return next(
            len(PurePosixPath(subset).parts)
            for subset in self.settings.subsets
            if path.is_relative_to(subset)
        )
