"""How much audio a corpus has, by source: exactly where its manifests exist, else as published or
as its settings ask for.

In: the catalogue's sources by role. Out: utterances and seconds of each, with what the figure is
based on. No audio is opened and no data root is needed. Cost: reading manifests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from components.audio.endings import ENDINGS
from components.config import catalogue
from components.config.params import Features
from components.corpus.build import OUT
from components.corpus.fetch.archive import Archive, list_archives
from components.corpus.manifest import MANIFEST, read_manifest
from components.corpus.scan import SCANS, read_scan
from components.corpus.source import (
    CorpusSource,
    DerivedSource,
    FolderSource,
    GeneratedSource,
    build_source,
)
from components.features.waveforms import role_augment
from components.runtime.artifact import RECORD, read_record

MEAN_S = 10.0  # seconds of an utterance where their number is not known; LibriSpeech has 12.3
# Bytes of a second of 16 kHz speech by file format: 16-bit PCM; FLAC as train-clean-100 (6.39 GB
# for 100.6 h, www.openslr.org/12).
BYTES_PER_SECOND = {".wav": 32_000, ".flac": 17_600}
COMPRESSED_BYTES_PER_SECOND = 4_000  # any other format: as Opus at 32 kbit/s (www.openslr.org/94)
UNKNOWN = "nothing"


class Amount(NamedTuple):
    """Audio without a name."""

    seconds: float
    num_utterances: int


@dataclass(frozen=True)
class AudioAmount:
    """What a source has, or will have."""

    role: str
    source: str
    seconds: float
    num_utterances: int
    basis: str  # manifest, settings, publisher, file sizes, or nothing

    @property
    def has_speech(self) -> bool:
        """Whether there are transcripts."""
        return self.role in catalogue.SPEECH_ROLES

    @property
    def has_basis(self) -> bool:
        """Whether the figures are based on anything."""
        return self.basis != UNKNOWN

    @property
    def mean_s(self) -> float:
        """Seconds of an utterance, on average."""
        return self.seconds / max(1, self.num_utterances)


def augmented_views(settings: Features, role: str) -> tuple[int, float]:
    """How often a role is encoded (its views), and how many seconds are encoded in all for a second
    of its audio.
    """
    augment = role_augment(settings.augment, role)
    if augment is None:
        return 1, 1.0
    stretch = sum(1 / speed for speed in augment.speed) / len(augment.speed)
    return augment.views, augment.views * stretch


def list_audio(corpus: str) -> list[AudioAmount]:
    """Every source of a corpus, by role."""
    return [
        _audio(corpus, role, name, settings)
        for role, sources in catalogue.corpus(corpus).sources.items()
        for name, settings in sources.items()
    ]


def _audio(corpus: str, role: str, name: str, settings: dict[str, Any]) -> AudioAmount:
    if amount := _from_manifest(role, name, settings):
        return AudioAmount(role, name, *amount, "manifest")
    scan = SCANS / corpus / role / f"{name}.json"
    amount, basis = _expected(build_source(name, role, settings), scan)
    return AudioAmount(role, name, *amount, basis)


def _expected(origin: CorpusSource, scan: Path) -> tuple[Amount, str]:
    """What a source without a manifest will have, and what that is based on; the scan of a derived
    source lists the files of the one that it changes.
    """
    if isinstance(origin, DerivedSource):
        amount, basis = _expected(origin.list_origins()[0], scan)
        return Amount(origin.estimate_duration_s(*amount), amount.num_utterances), basis
    if isinstance(origin, GeneratedSource):
        return Amount(*origin.estimate_size()), "settings"
    if scanned := _from_scan(scan):  # before the publisher: a part of the set may be all there is
        return scanned, "file sizes"
    if published := _from_publisher(origin):
        return published, "publisher"
    return Amount(0.0, 0), UNKNOWN


def _from_manifest(role: str, name: str, settings: dict[str, Any]) -> Amount | None:
    """The sum of a manifest, where one was written with exactly these settings."""
    record, manifest = OUT / role / RECORD, OUT / role / name / MANIFEST
    if not (record.is_file() and manifest.is_file()):
        return None
    if (read_record(record.parent)["parameters"] or {}).get(name) != settings:
        return None
    utterances = read_manifest(manifest.parent)
    seconds = sum(utterance.duration_s for utterance in utterances)
    return Amount(seconds, len(utterances))


def _from_publisher(origin: CorpusSource) -> Amount | None:
    """The sum over the archives of a source's folders; None where it is not published for one of
    them.
    """
    if not isinstance(origin, FolderSource):
        return None
    root, folders = origin.list_folders()
    amounts = []
    for folder in folders:
        published = (_published(archive, folder) for archive in list_archives(root))
        amount = next((amount for amount in published if amount), None)
        if amount is None:
            return None
        amounts.append(amount)
    return Amount(
        sum(amount.seconds for amount in amounts), sum(amount.num_utterances for amount in amounts)
    )


def _published(archive: Archive, folder: str) -> Amount | None:
    """What is published of ``folder``, where it is the archive's or one below it."""
    if PurePosixPath(folder).parts[0] != archive.folder or (hours := archive.hours(folder)) is None:
        return None
    seconds = 3600 * hours
    return Amount(seconds, archive.utterances(folder) or max(1, round(seconds / MEAN_S)))


def _from_scan(scan: Path) -> Amount | None:
    """The recordings of a committed scan with their seconds, where it says them (of tars); else its
    sound files, their seconds by their sizes; None where there are none.
    """
    content = read_scan(scan) if scan.is_file() else {}
    if "seconds" in content:
        return Amount(content["seconds"], content["recordings"])
    files = content.get("files", [])
    sizes = [(PurePosixPath(path).suffix.lower(), num_bytes) for path, num_bytes in files]
    seconds = [
        num_bytes / BYTES_PER_SECOND.get(suffix, COMPRESSED_BYTES_PER_SECOND)
        for suffix, num_bytes in sizes
        if suffix in ENDINGS
    ]
    return Amount(sum(seconds), len(seconds)) if seconds else None
