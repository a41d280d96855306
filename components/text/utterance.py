"""One utterance: the row of the manifest, from the corpus to the report.

``corpus`` writes it (``manifest.parquet``), ``splits`` and ``shards`` read it, and the index of the
shards carries its id, text and speaker on. The fields are the columns of the parquet file, in their
order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording that a source keeps, with its transcript."""

    id: str
    split: str  # the role: train, dev, test, nonspeech-train, nonspeech-test, noise
    speaker: str  # empty: unknown
    language: str  # a code ("en"); empty for non-speech
    path: str  # of the audio file, relative to the root of its source
    sample_rate: int  # Hz, of the file
    samples: int  # per channel, of the file
    text: str  # as published; empty for non-speech
    sha256: str  # of the file's bytes, hexadecimal

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.samples / self.sample_rate
