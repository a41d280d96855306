"""Connected words: utterances put together from a table of isolated recordings (spoken digits,
say).

In: a table with the columns ``path``, ``speaker``, ``transcript`` (the word) and ``take`` (a
number). Out: for each speaker ``utterances`` strings of words drawn at random, each from takes of
that speaker alone, with pauses of faint noise before, between and after; 16 kHz FLAC in the work
cache, the same bytes each time. Text: the words in lower case. A take that cannot be read is
rejected and not used. Cost: about 1,000 s of audio a second.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from components.audio.sound import RATE, BrokenSound, encode_flac, is_silent, read_waveform
from components.config.errors import InputError, nearest
from components.config.schema import STRICT
from components.corpus import RESULT_VERSION
from components.corpus.listing import SILENT, FileSource, build_scan, check_speech_role, read_sizes
from components.corpus.manifest import Reject
from components.corpus.sources.table import (
    TableRow,
    below_root,
    check_column,
    ids_of,
    read_rows,
    safe,
)
from components.runtime.hashing import seed_of
from components.runtime.progress import progress
from components.runtime.s3 import local_path_or_bytes
from components.runtime.unit_cache import cached_unit, unit_digests
from components.text.utterance import Utterance

COLUMNS = ("path", "speaker", "transcript", "take")
# RMS of the pauses (-70 dB of full scale): below the recordings' own, and never digital silence
NOISE = 3e-4
LISTING = "listing.json"
WORD_SECONDS = 0.45  # of an isolated digit, about

Words = dict[str, list[np.ndarray]]  # word → 16 kHz samples of each of its takes


@dataclass(frozen=True)
class ConnectedSettings:
    __pydantic_config__ = STRICT
    kind: Literal["connected"]
    root: str  # name of the data root
    table: str  # path of the .tsv or .csv below the root
    speakers: list[str]
    takes: tuple[int, int]  # first and last, both used
    utterances: int  # of each speaker
    words: tuple[int, int]  # fewest and most in an utterance
    pause_seconds: tuple[float, float]  # shortest and longest, before, between and after words
    seed: int
    language: str = "en"


class ConnectedSource(FileSource[ConnectedSettings]):
    """A source of kind ``connected``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(ConnectedSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)
        _check(name, self.settings)

    @cached_property
    def _takes(self) -> list[tuple[str, TableRow]]:
        """(path, row) of the takes to draw from, sorted by path."""
        table, (first, last) = self.settings.table, self.settings.takes
        rows = read_rows(self._root, table)
        for column in COLUMNS:
            check_column(table, rows, column)
        known = {row["speaker"] for row in rows}
        for speaker in self.settings.speakers:
            if speaker not in known:
                raise InputError(
                    f"{table}: no speaker is called '{speaker}'.",
                    subject=speaker,
                    hint=nearest(speaker, known),
                )
        wanted = [
            row
            for row in rows
            if row["speaker"] in self.settings.speakers and first <= _number(table, row) <= last
        ]
        takes = sorted(
            ((below_root(table, row["path"]), row) for row in wanted), key=lambda take: take[0]
        )
        there = read_sizes(self._root, {path for path, _ in takes} - {""})
        for path, row in takes:
            if path not in there:
                raise InputError(
                    f"{table}: no file is at '{row['path']}'.",
                    subject=row["path"],
                    hint="Put it there, or take out its row.",
                )
        return takes

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of the table and of the takes used, and the digest of the table's
        content.
        """
        sizes = read_sizes(self._root, [self.settings.table, *(path for path, _ in self._takes)])
        return build_scan(self._root, sizes, [self.settings.table])

    def estimate_size(self) -> tuple[float, int]:
        settings = self.settings
        words, pause, count = (
            np.mean(settings.words),
            np.mean(settings.pause_seconds),
            settings.utterances * len(settings.speakers),
        )
        return float(count * (words * WORD_SECONDS + (words + 1) * pause)), count

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """The utterances made, and the takes that could not be used."""
        listing, sums = json.loads((self._unit / LISTING).read_text()), unit_digests(self._unit)
        kept = [
            Utterance(
                row["id"],
                self.role,
                row["speaker"],
                self.settings.language,
                f"{row['id']}.flac",
                RATE,
                row["samples"],
                row["text"],
                sums[f"{row['id']}.flac"],
            )
            for row in listing["made"]
        ]
        return sorted(kept, key=lambda row: row.id), sorted(
            (Reject(**row) for row in listing["rejected"]), key=lambda row: row.id
        )

    def locate(self, path: str) -> Path:
        return self._unit / path

    @cached_property
    def _unit(self) -> Path:
        libraries = {
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": version("soxr"),
            "numpy": version("numpy"),
        }
        key = {
            "what": "connected",
            "version": RESULT_VERSION,
            "name": self.name,
            "role": self.role,
            "libraries": libraries,
            "settings": asdict(self.settings),
            "scan": self.scan()["digest"],
        }
        return cached_unit("audio", key, self._make, code=__name__)

    def _make(self, folder: Path) -> None:
        words, rejected = self._read_takes()
        made_rows = []
        with progress(
            "corpus",
            f"making {self.name}",
            self.settings.utterances * len(self.settings.speakers),
            "utterances",
        ) as bar:
            for speaker in self.settings.speakers:
                if not words[speaker]:
                    raise InputError(
                        f"source '{self.name}': no take of '{speaker}' can be used.",
                        subject=speaker,
                        hint=f"Widen 'takes', or mend them: {rejected[:1]}",
                    )
                for number in range(self.settings.utterances):
                    name = f"{self.name}-{self.role}-{safe(speaker)}-{number:05d}"
                    text, samples = self._utterance(speaker, number, words[speaker])
                    (folder / f"{name}.flac").write_bytes(encode_flac(samples))
                    made_rows.append(
                        {"id": name, "speaker": speaker, "text": text, "samples": len(samples)}
                    )
                    bar.advance()
        (folder / LISTING).write_text(
            json.dumps({"made": made_rows, "rejected": rejected}, indent=0)
        )

    def _read_takes(self) -> tuple[dict[str, Words], Sequence[dict[str, str]]]:
        """The takes by speaker and word, and the rejects among them."""
        words: dict[str, Words] = defaultdict(lambda: defaultdict(list))
        rejected, ids = [], ids_of([path for path, _ in self._takes])
        for path, row in self._takes:
            try:
                samples = read_waveform(local_path_or_bytes(self._root / path))
                reason = SILENT if is_silent(samples) else ""
            except BrokenSound as error:
                samples, reason = np.zeros(0, np.float32), str(error)
            if reason:
                rejected.append(asdict(Reject(ids[path], path, reason)))
            else:
                words[row["speaker"]][row["transcript"].lower()].append(samples)
        return words, rejected

    def _utterance(self, speaker: str, number: int, words: Words) -> tuple[str, np.ndarray]:
        """Text and samples of one utterance; they hang on the seed, role, speaker and number, and
        on the takes alone.
        """
        generator = np.random.default_rng(
            seed_of("connected", self.settings.seed, self.role, speaker, number)
        )
        known = sorted(words)
        fewest, most = self.settings.words
        text = [
            known[index]
            for index in generator.integers(len(known), size=generator.integers(fewest, most + 1))
        ]
        parts = [self._pause(generator)]
        for word in text:
            parts += [words[word][generator.integers(len(words[word]))], self._pause(generator)]
        return " ".join(text), np.concatenate(parts)

    def _pause(self, generator: np.random.Generator) -> np.ndarray:
        length = round(generator.uniform(*self.settings.pause_seconds) * RATE)
        return (NOISE * generator.standard_normal(length)).astype(np.float32)


def _number(table: str, row: TableRow) -> int:
    if not row["take"].isdecimal():
        raise InputError(
            f"{table}: the take '{row['take']}' of '{row['path']}' is no number.",
            subject=row["path"],
        )
    return int(row["take"])


def _check(name: str, settings: ConnectedSettings) -> None:
    holds = {
        "speakers": bool(settings.speakers)
        and len({safe(speaker) for speaker in settings.speakers}) == len(settings.speakers),
        "takes": settings.takes[0] <= settings.takes[1],
        "utterances": settings.utterances >= 1,
        "words": 1 <= settings.words[0] <= settings.words[1],
        "pause_seconds": 0 <= settings.pause_seconds[0] <= settings.pause_seconds[1],
    }
    for key, good in holds.items():
        if not good:
            raise InputError(
                f"source '{name}': '{key}' is out of range ({getattr(settings, key)}).",
                subject=name,
                hint="Ranges are [least, most]; speakers are different and at least one.",
            )
