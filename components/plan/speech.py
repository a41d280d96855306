"""How much audio a corpus holds, by source: exactly where its manifests are there, else as
published or as asked for.

In: the catalogue's sources by role. Out: utterances and seconds of each, with what the figure rests
on. No audio is opened and no data root is needed. Cost: reading manifests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.config import catalogue
from components.config.params import Features
from components.corpus.__main__ import OUT, SCANS
from components.corpus.fetch.archive import Archive, archives
from components.corpus.manifest import MANIFEST, read_manifest
from components.corpus.source import (
    CorpusSource,
    DerivedSource,
    FolderSource,
    GeneratedSource,
    build_source,
)
from components.corpus.sources.clips import SUFFIXES
from components.features.waveforms import augment_of
from components.runtime.artifact import RECORD

SECONDS = 10.0  # of an utterance, where their number is not known
# Bytes of a second of 16 kHz speech by file format: 16-bit PCM; FLAC as train-clean-100 (6.39 GB
# for 100.6 h); anything else as Opus at 32 kbit/s.
RATES, OTHER = {".wav": 32_000, ".flac": 17_600}, 4_000


@dataclass(frozen=True)
class Audio:
    """What a source holds, or will hold."""

    role: str
    source: str
    seconds: float
    utterances: int
    rests_on: str  # manifest, settings, publisher, file sizes, or nothing

    @property
    def speech(self) -> bool:
        """Whether there are transcripts."""
        return self.role in catalogue.SPEECH_ROLES


def speech_of(settings: Features, role: str) -> tuple[int, float]:
    """How often a role is encoded (its views), and how many seconds are encoded in all a second of
    its audio.
    """
    augment = augment_of(settings.augment, role)
    if augment is None:
        return 1, 1.0
    return augment.views, augment.views * sum(1 / speed for speed in augment.speed) / len(
        augment.speed
    )


def audio_of(corpus: str) -> list[Audio]:
    """Every source of a corpus, by role."""
    listed = [
        (role, name, settings)
        for role, found in catalogue.corpus(corpus).sources.items()
        for name, settings in found.items()
    ]
    return [_audio(corpus, role, name, settings) for role, name, settings in listed]


def _audio(corpus: str, role: str, name: str, settings: dict[str, Any]) -> Audio:
    if held := _in_manifest(role, name, settings):
        return Audio(role, name, *held, "manifest")
    return Audio(
        role,
        name,
        *_foreseen(build_source(name, role, settings), SCANS / corpus / role / f"{name}.json"),
    )


def _foreseen(origin: CorpusSource, scan: Path) -> tuple[float, int, str]:
    """Seconds and utterances of a source without a manifest, and what they rest on; a derived
    source's scan lists the files of the one that it changes.
    """
    if isinstance(origin, DerivedSource):
        seconds, utterances, rests_on = _foreseen(origin.list_origins()[0], scan)
        return origin.estimate_duration_s(seconds, utterances), utterances, rests_on
    if isinstance(origin, GeneratedSource):
        return *origin.estimate_size(), "settings"
    if held := _scanned(scan):  # before the publisher: a part of it may lie here
        return *held, "file sizes"
    if held := _published(origin):
        return *held, "publisher"
    return 0.0, 0, "nothing"


def _in_manifest(role: str, name: str, settings: dict[str, Any]) -> tuple[float, int] | None:
    """Seconds and utterances of a manifest that was made with these very settings."""
    record, manifest = OUT / role / RECORD, OUT / role / name / MANIFEST
    if (
        not (record.is_file() and manifest.is_file())
        or json.loads(record.read_text())["parameters"].get(name) != settings
    ):
        return None
    rows = read_manifest(manifest.parent)
    return sum(row.duration_s for row in rows), len(rows)


def _published(origin: CorpusSource) -> tuple[float, int] | None:
    """Seconds and utterances of the archives that hold a source's folders; none where one of them
    does not say.
    """
    if not isinstance(origin, FolderSource):
        return None
    root, folders = origin.list_folders()
    seconds, utterances = 0.0, 0
    for folder in folders:
        said = [held for archive in archives(root) if (held := _held(archive, folder))]
        if not said:
            return None
        seconds, utterances = seconds + said[0][0], utterances + said[0][1]
    return seconds, utterances


def _held(archive: Archive, folder: str) -> tuple[float, int] | None:
    """Seconds and utterances of ``folder``, where it is the archive's or one below it."""
    if PurePosixPath(folder).parts[0] != archive.folder or (hours := archive.hours(folder)) is None:
        return None
    return 3600 * hours, archive.utterances(folder) or max(1, round(3600 * hours / SECONDS))


def _scanned(scan: Path) -> tuple[float, int] | None:
    """Seconds, by their sizes, and number of the sound files of a committed scan; none where there
    are none.
    """
    files = json.loads(scan.read_text()).get("files", []) if scan.is_file() else []
    sounds = [(PurePosixPath(path).suffix.lower(), size) for path, size in files]
    sounds = [(suffix, size) for suffix, size in sounds if suffix in SUFFIXES]
    return (
        (sum(size / RATES.get(suffix, OTHER) for suffix, size in sounds), len(sounds))
        if sounds
        else None
    )
