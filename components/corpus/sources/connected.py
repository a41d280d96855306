"""Connected words (kind ``connected``): utterances composed from a table of isolated recordings,
for example of digits.

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
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
from pydantic import AfterValidator, Field

from components.audio.sound import RATE, BrokenSound, encode_flac, is_silent, read_waveform
from components.config.errors import InputError, nearest
from components.config.ranges import GeneratedClips, NonNegativeInt, PauseSeconds, Seed, WordsInRow
from components.config.schema import STRICT, Unit, check_order
from components.corpus import RESULT_VERSION
from components.corpus.files import FileSource, build_scan, check_speech_role, read_sizes
from components.corpus.listing import SILENT
from components.corpus.manifest import Reject
from components.corpus.sources.table import (
    TableRow,
    check_column,
    path_below_root,
    read_rows,
    safe_id,
    unique_ids,
)
from components.runtime.hashing import seed_of
from components.runtime.json_files import read_json
from components.runtime.progress import progress
from components.runtime.s3 import local_path_or_bytes
from components.runtime.unit_cache import cached_unit, unit_digests
from components.text.utterance import Utterance

COLUMNS = ("path", "speaker", "transcript", "take")
# RMS of the pauses (-70 dB of full scale): below the recordings' own, and never digital silence
NOISE_RMS = 3e-4
LISTING = "listing.json"  # in the unit
WORD_SECONDS = 0.45  # of an isolated digit, approximate

WaveformsByWord = dict[str, list[np.ndarray]]  # word → 16 kHz samples of each of its takes


@dataclass(frozen=True)
class ConnectedSettings:
    """Settings of a source of kind ``connected``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: Literal["connected"]
    root: Annotated[str, Field(description="Name of the data root.")]
    table: Annotated[str, Field(description="Path of the .tsv or .csv below the root.")]
    speakers: Annotated[list[str], Field(min_length=1, description="Speakers that are used.")]
    take_range: Annotated[
        tuple[NonNegativeInt, NonNegativeInt],
        AfterValidator(check_order),
        Field(description="First and last take, both used."),
    ]
    utterances: Annotated[GeneratedClips, Field(description="Of each speaker.")]
    words: Annotated[
        tuple[WordsInRow, WordsInRow],
        AfterValidator(check_order),
        Field(description="Fewest and most in an utterance."),
    ]
    pause_seconds: Annotated[
        tuple[PauseSeconds, PauseSeconds],
        AfterValidator(check_order),
        Unit("s"),
        Field(description="Shortest and longest, before, between and after words."),
    ]
    seed: Annotated[Seed, Field(description="Seed of words, takes and pauses.")]
    language: Annotated[str, Field(description="Of every utterance.")] = "en"


class ConnectedSource(FileSource[ConnectedSettings]):
    """A source of kind ``connected``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(ConnectedSettings, name, role, settings)
        check_speech_role(name, role, self.settings.kind)
        _check_speakers(name, self.settings)

    @cached_property
    def _recordings(self) -> list[tuple[str, TableRow]]:
        """(path, row) of the takes to draw from, sorted by path."""
        table, (first, last) = self.settings.table, self.settings.take_range
        rows = read_rows(self._root, table)
        for column in COLUMNS:
            check_column(table, rows, column)
        speakers = {row["speaker"] for row in rows}
        for speaker in self.settings.speakers:
            if speaker not in speakers:
                raise InputError(
                    f"{table}: no speaker is called '{speaker}'.",
                    subject=speaker,
                    hint=nearest(speaker, speakers),
                )
        selected = sorted(
            (
                (path_below_root(self._root, table, row["path"]), row)
                for row in rows
                if row["speaker"] in self.settings.speakers
                and first <= _take_number(table, row) <= last
            ),
            key=lambda path_and_row: path_and_row[0],
        )
        sizes = read_sizes(self._root, {path for path, _ in selected} - {""})
        for path, row in selected:
            if path not in sizes:
                raise InputError(
                    f"{table}: no file is at '{row['path']}'.",
                    subject=row["path"],
                    hint="Put it there, or remove its row.",
                )
        return selected

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of the table and of the takes used, and the digest of the table's
        content.
        """
        sizes = read_sizes(
            self._root, [self.settings.table, *(path for path, _ in self._recordings)]
        )
        return build_scan(self._root, sizes, [self.settings.table])

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of utterances)."""
        settings = self.settings
        num_words, pause_s = np.mean(settings.words), np.mean(settings.pause_seconds)
        count = settings.utterances * len(settings.speakers)
        return float(count * (num_words * WORD_SECONDS + (num_words + 1) * pause_s)), count

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """The composed utterances, and the takes that could not be used."""
        listing = read_json(self._unit / LISTING)
        digests = unit_digests(self._unit)
        accepted = [
            Utterance(
                id=row["id"],
                split=self.role,
                speaker=row["speaker"],
                language=self.settings.language,
                path=f"{row['id']}.flac",
                sample_rate=RATE,
                samples=row["samples"],
                text=row["text"],
                sha256=digests[f"{row['id']}.flac"],
            )
            for row in listing["utterances"]
        ]
        rejected = [Reject(**row) for row in listing["rejected"]]
        return (
            sorted(accepted, key=lambda utterance: utterance.id),
            sorted(rejected, key=lambda reject: reject.id),
        )

    def locate(self, path: str) -> Path:
        """The file of a path of the manifest, generated again if it is gone."""
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
        return cached_unit("audio", key, self._generate, code=__name__)

    def _generate(self, folder: Path) -> None:
        waveforms_by_speaker, rejected = self._load_waveforms()
        settings = self.settings
        rows = []
        total = settings.utterances * len(settings.speakers)
        with progress("corpus", f"generating {self.name}", total, "utterances") as bar:
            for speaker in settings.speakers:
                if not waveforms_by_speaker[speaker]:
                    raise InputError(
                        f"source '{self.name}': no take of '{speaker}' can be used.",
                        subject=speaker,
                        hint=f"Widen 'take_range', or repair the files: {rejected[:1]}",
                    )
                for number in range(settings.utterances):
                    utterance_id = f"{self.name}-{self.role}-{safe_id(speaker)}-{number:05d}"
                    text, samples = self._compose(speaker, number, waveforms_by_speaker[speaker])
                    (folder / f"{utterance_id}.flac").write_bytes(encode_flac(samples))
                    rows.append(
                        {
                            "id": utterance_id,
                            "speaker": speaker,
                            "text": text,
                            "samples": len(samples),
                        }
                    )
                    bar.advance()
        listing = {"utterances": rows, "rejected": rejected}
        (folder / LISTING).write_text(json.dumps(listing, indent=0))

    def _load_waveforms(self) -> tuple[dict[str, WaveformsByWord], Sequence[dict[str, str]]]:
        """The takes by speaker and word, and the rejects among them."""
        by_speaker: dict[str, WaveformsByWord] = defaultdict(lambda: defaultdict(list))
        id_by_path = unique_ids([path for path, _ in self._recordings])
        rejected = []
        for path, row in self._recordings:
            try:
                samples = read_waveform(local_path_or_bytes(self._root / path))
                reason = SILENT if is_silent(samples) else ""
            except BrokenSound as error:
                samples, reason = np.zeros(0, np.float32), str(error)
            if reason:
                rejected.append(asdict(Reject(id_by_path[path], path, reason)))
            else:
                by_speaker[row["speaker"]][row["transcript"].lower()].append(samples)
        return by_speaker, rejected

    def _compose(
        self, speaker: str, number: int, waveforms_by_word: WaveformsByWord
    ) -> tuple[str, np.ndarray]:
        """Text and samples, shape (samples,), of one utterance; they depend on the seed, role,
        speaker and number, and on the takes alone.
        """
        random = np.random.default_rng(
            seed_of("connected", self.settings.seed, self.role, speaker, number)
        )
        vocabulary = sorted(waveforms_by_word)
        fewest, most = self.settings.words
        words = [
            vocabulary[word_index]
            for word_index in random.integers(
                len(vocabulary), size=random.integers(fewest, most + 1)
            )
        ]
        parts = [self._draw_pause(random)]
        for word in words:
            waveforms = waveforms_by_word[word]
            take_index = random.integers(len(waveforms))
            parts += [waveforms[take_index], self._draw_pause(random)]
        return " ".join(words), np.concatenate(parts)

    def _draw_pause(self, random: np.random.Generator) -> np.ndarray:
        num_samples = round(random.uniform(*self.settings.pause_seconds) * RATE)
        pause: np.ndarray = (NOISE_RMS * random.standard_normal(num_samples)).astype(np.float32)
        return pause


def _take_number(table: str, row: TableRow) -> int:
    if not row["take"].isdecimal():
        raise InputError(
            f"{table}: the take '{row['take']}' of '{row['path']}' is not a number.",
            subject=row["path"],
            hint="Write a whole number in the column 'take'.",
        )
    return int(row["take"])


def _check_speakers(name: str, settings: ConnectedSettings) -> None:
    """Raises InputError where two speakers would have the same ids."""
    if len({safe_id(speaker) for speaker in settings.speakers}) < len(settings.speakers):
        raise InputError(
            f"source '{name}': 'speakers' has one twice ({settings.speakers}).",
            subject=name,
            hint="Name each speaker once.",
        )
