"""Multilingual LibriSpeech (https://www.openslr.org/94), one language and subset → its utterances.

In: ``<root>/mls_<language>[_opus]/<subset>/transcripts.txt`` (a line: id, tab, text) and
``…/audio/<speaker>/<book>/<speaker>_<book>_<number>.flac`` (or ``.opus``); for ten hours of
training the ids in ``train/limited_supervision/{9hr,1hr}``. Out: every recording and every
transcript, kept or rejected, text as published (lower case). Speakers are told apart by language
(``pl-4800``): subsets are speaker-disjoint within a language only. Cost: of a listing, as
``components.corpus.listing``; memory about 1.8 GB a million utterances, of a scan 0.5 GB.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

from components.audio.sound import RATE
from components.config.errors import InputError, nearest
from components.config.schema import STRICT
from components.corpus.listing import (
    FETCH,
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

CODES = {  # of each language that there is
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
    __pydantic_config__ = STRICT
    kind: Literal["mls"]
    root: str  # name of the data root
    language: str  # one of CODES
    subset: Literal["train", "dev", "test"]
    audio: Literal["flac", "opus"] = "flac"  # as published, or the small variant
    limited: list[Literal["9hr", "1hr"]] = field(
        default_factory=list
    )  # of train: only these parts; both make the ten hours
    rate: int = RATE  # Hz; a file of another rate is refused


class MlsSource(FileSource[MlsSettings]):
    """A source of kind ``mls``: recordings are mono and all of one rate."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(MlsSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)
        if self.settings.language not in CODES:
            raise InputError(
                f"source '{name}': there is no language '{self.settings.language}'.",
                subject=self.settings.language,
                hint=nearest(self.settings.language, CODES),
            )
        if self.settings.limited and self.settings.subset != "train":
            raise InputError(
                f"source '{name}': 'limited' picks a part of the subset train, not of "
                f"{self.settings.subset}.",
                subject=name,
                hint="Leave it out: evaluation takes all of a subset.",
            )
        self._folder = (
            f"mls_{self.settings.language}{'_opus' if self.settings.audio == 'opus' else ''}"
        )
        self._base = f"{self._folder}/{self.settings.subset}"
        self._suffix = f".{self.settings.audio}"

    @cached_property
    def _texts(self) -> list[str]:
        """The transcripts and, where only a part is wanted, its lists of ids; relative
        to the root.
        """
        parts = [
            self._root / self._base / "limited_supervision" / part for part in self.settings.limited
        ]
        above = str(self._root)
        lists = [
            sorted(path.relative_to(above) for path in part.rglob(HANDLES)) for part in parts
        ]  # 1hr is split into six of ten minutes
        for part, found in zip(parts, lists):
            if not found:
                raise self._empty(f"no {HANDLES} lies in {part.relative_to(above)}")
        if not (self._root / self._base / TEXT).is_file():
            raise self._empty(f"no {self._base}/{TEXT}")
        return [f"{self._base}/{TEXT}", *(path.as_posix() for found in lists for path in found)]

    @cached_property
    def _sounds(self) -> dict[str, int]:
        """Size of each recording, by path relative to the root."""
        sizes = list_sizes_below(
            self._root, f"{self._base}/audio", lambda path: path.endswith(self._suffix)
        )
        if not sizes:
            raise self._empty(f"no {self._suffix} file lies in {self._base}/audio")
        return sizes

    def _empty(self, what: str) -> InputError:
        language, root = self.settings.language, self.settings.root
        return InputError(
            f"source '{self.name}': the language '{language}' is empty: {what} of the data "
            f"root '{root}'.",
            subject=language,
            hint=f"See that the data root is the folder that holds '{self._folder}'. {FETCH}",
        )

    def list_folders(self) -> tuple[str, list[str]]:
        return self.settings.root, [self._base]

    def scan(self) -> dict[str, Any]:
        """Texts with their sizes, and each book with the bytes of its recordings: English has
        millions of those.

        The digest is over all of them and over the content of the texts.
        """
        texts = {path: (self._root / path).stat().st_size for path in self._texts}
        books: dict[str, int] = defaultdict(int)
        for path, size in self._sounds.items():
            books[f"{PurePosixPath(path).parent}/"] += size
        whole = build_scan(self._root, {**texts, **self._sounds}, self._texts)
        return {
            **whole,
            "files": [[path, size] for path, size in sorted({**texts, **books}.items())],
        }

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording, with its transcript, and every transcript without a recording; of a
        limited part its ids alone.
        """
        rules = AcceptanceRules(self.role, rate=self.settings.rate, mono=True)
        return check_recordings(self.name, self._root, self._entries(), self._sounds, rules)

    def _entries(self) -> Sequence[ListedRecording]:
        transcripts, *lists = self._texts
        pairs = (line.partition("\t") for line in read_lines(self._root, transcripts))
        entries = [self._entry(name.strip(), text) for name, _, text in pairs]
        if not lists:
            named = {entry.path for entry in entries}
            return entries + [
                self._entry(PurePosixPath(path).stem, None, path)
                for path in sorted(self._sounds.keys() - named)
            ]
        wanted = {line.strip() for path in lists for line in read_lines(self._root, path)}
        found = {entry.id for entry in entries}
        return [entry for entry in entries if entry.id in wanted] + [
            self._entry(name, None) for name in sorted(wanted - found)
        ]

    def _entry(self, name: str, text: str | None, path: str = "") -> ListedRecording:
        """The entry of an id, whose file lies where its name says; of a stray recording the
        ``path`` is known.
        """
        fits = NAME.fullmatch(name)
        speaker, book = (fits[1], fits[2]) if fits else ("", "")
        place = (
            f"{self._base}/audio/{speaker}/{book}/{name}{self._suffix}" if fits else path or name
        )
        fault = (
            ""
            if fits and path in ("", place)
            else f"wrong name: not <speaker>/<book>/<speaker>_<book>_<number>{self._suffix}"
        )
        code = CODES[self.settings.language]
        return ListedRecording(
            name, path or place, text, f"{code}-{speaker}" if speaker else "", code, fault
        )
