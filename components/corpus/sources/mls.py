"""Multilingual LibriSpeech (kind ``mls``; https://www.openslr.org/94), one language and subset →
its utterances.

In: ``<root>/mls_<language>[_opus]/<subset>/transcripts.txt`` (a line: id, tab, text) and
``…/audio/<speaker>/<book>/<speaker>_<book>_<number>.flac`` (or ``.opus``); for ten hours of
training the ids in ``train/limited_supervision/{9hr,1hr}``. Out: every recording and every
transcript, accepted or rejected, text as published (lower case). The language is a part of a
speaker's name (``pl-4800``): subsets are speaker-disjoint within a language only. Cost: that of
``components.corpus.inspection``; memory about 1.8 GB a million utterances, of a scan 0.5 GB.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from components.audio.sound import RATE
from components.config.errors import InputError, nearest
from components.config.ranges import SampleRate
from components.config.schema import STRICT, Unit
from components.corpus.files import (
    FETCH_HINT,
    FileSource,
    build_scan,
    check_speech_role,
    list_sizes_below,
    read_lines,
)
from components.corpus.listing import AcceptanceRules, ListedRecording, check_recordings
from components.corpus.manifest import Reject
from components.text.utterance import Utterance

LANGUAGE_CODES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}
TEXT, HANDLES = "transcripts.txt", "handles.txt"
NAME = re.compile(r"([^_]+)_([^_]+)_[^_]+")  # speaker, book, utterance


@dataclass(frozen=True)
class MlsSettings:
    """Settings of a source of kind ``mls``."""

    __pydantic_config__ = STRICT
    kind: Literal["mls"]
    root: Annotated[str, Field(description="Name of the data root.")]
    language: Annotated[str, Field(description="English name, in lower case.")]
    subset: Annotated[Literal["train", "dev", "test"], Field(description="Part of the corpus.")]
    audio: Annotated[
        Literal["flac", "opus"], Field(description="As published, or the small variant.")
    ] = "flac"
    limited: Annotated[
        list[Literal["9hr", "1hr"]],
        Field(description="Of train: these parts alone; both together are the ten hours."),
    ] = field(default_factory=list)
    rate: Annotated[
        SampleRate, Unit("Hz"), Field(description="A file of another rate is refused.")
    ] = RATE


class MlsSource(FileSource[MlsSettings]):
    """A source of kind ``mls``: recordings are mono and all of one rate."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(MlsSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)
        if self.settings.language not in LANGUAGE_CODES:
            raise InputError(
                f"source '{name}': there is no language '{self.settings.language}'.",
                subject=self.settings.language,
                hint=nearest(self.settings.language, LANGUAGE_CODES),
            )
        if self.settings.limited and self.settings.subset != "train":
            raise InputError(
                f"source '{name}': 'limited' is for a part of the subset train, not of "
                f"{self.settings.subset}.",
                subject=name,
                hint="Leave it out: evaluation takes all of a subset.",
            )
        variant = "_opus" if self.settings.audio == "opus" else ""
        self._folder = f"mls_{self.settings.language}{variant}"
        self._base = f"{self._folder}/{self.settings.subset}"
        self._suffix = f".{self.settings.audio}"

    @cached_property
    def _text_paths(self) -> list[str]:
        """The transcripts and, for a limited part, its lists of ids; relative to the root."""
        root = str(self._root)
        parts = [
            self._root / self._base / "limited_supervision" / part for part in self.settings.limited
        ]
        # 1hr is divided into six of ten minutes
        handles = [sorted(path.relative_to(root) for path in part.rglob(HANDLES)) for part in parts]
        for part, part_handles in zip(parts, handles, strict=True):
            if not part_handles:
                raise self._empty_error(f"{part.relative_to(root)} has no {HANDLES}")
        if not (self._root / self._base / TEXT).is_file():
            raise self._empty_error(f"no {self._base}/{TEXT}")
        return [
            f"{self._base}/{TEXT}",
            *(path.as_posix() for part_handles in handles for path in part_handles),
        ]

    @cached_property
    def _audio_sizes(self) -> dict[str, int]:
        """Size of each recording, by path relative to the root."""
        sizes = list_sizes_below(
            self._root, f"{self._base}/audio", lambda path: path.endswith(self._suffix)
        )
        if not sizes:
            raise self._empty_error(f"{self._base}/audio has no {self._suffix} file")
        return sizes

    def _empty_error(self, problem: str) -> InputError:
        language, root = self.settings.language, self.settings.root
        return InputError(
            f"source '{self.name}': the language '{language}' is empty in the data root '{root}': "
            f"{problem}.",
            subject=language,
            hint=f"Check that the data root is the folder of '{self._folder}'. {FETCH_HINT}",
        )

    def list_folders(self) -> tuple[str, list[str]]:
        """Name of the data root, and the folder of the subset."""
        return self.settings.root, [self._base]

    def scan(self) -> dict[str, Any]:
        """Texts with their sizes, and each book with the bytes of its recordings (English has
        millions of recordings).

        The digest is over all of them and over the content of the texts.
        """
        texts = {path: (self._root / path).stat().st_size for path in self._text_paths}
        books: dict[str, int] = defaultdict(int)
        for path, size in self._audio_sizes.items():
            books[f"{PurePosixPath(path).parent}/"] += size
        scan = build_scan(self._root, {**texts, **self._audio_sizes}, self._text_paths)
        files = [[path, size] for path, size in sorted({**texts, **books}.items())]
        return {**scan, "files": files}

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording, with its transcript, and every transcript without a recording; of a
        limited part its ids alone.
        """
        rules = AcceptanceRules(self.role, rate=self.settings.rate, needs_mono=True)
        return check_recordings(
            self.name, self._root, self._list_recordings(), self._audio_sizes, rules
        )

    def _list_recordings(self) -> list[ListedRecording]:
        transcripts, *handles = self._text_paths
        pairs = (line.partition("\t") for line in read_lines(self._root, transcripts))
        recordings = [self._list_recording(name.strip(), text) for name, _, text in pairs]
        if not handles:
            transcribed = {recording.path for recording in recordings}
            return recordings + [
                self._list_recording(PurePosixPath(path).stem, None, path)
                for path in sorted(self._audio_sizes.keys() - transcribed)
            ]
        selected = {line.strip() for path in handles for line in read_lines(self._root, path)}
        transcribed = {recording.id for recording in recordings}
        return [recording for recording in recordings if recording.id in selected] + [
            self._list_recording(name, None) for name in sorted(selected - transcribed)
        ]

    def _list_recording(self, name: str, text: str | None, path: str = "") -> ListedRecording:
        """The recording of an id, whose path follows from its name; a recording without transcript
        has its ``path``.
        """
        match = NAME.fullmatch(name)
        speaker, book = (match[1], match[2]) if match else ("", "")
        expected_path = (
            f"{self._base}/audio/{speaker}/{book}/{name}{self._suffix}" if match else path or name
        )
        has_valid_name = match is not None and path in ("", expected_path)
        expected_name = f"<speaker>/<book>/<speaker>_<book>_<number>{self._suffix}"
        code = LANGUAGE_CODES[self.settings.language]
        return ListedRecording(
            id=name,
            path=path or expected_path,
            text=text,
            speaker=f"{code}-{speaker}" if speaker else "",
            language=code,
            fault="" if has_valid_name else f"wrong name: not {expected_name}",
        )
