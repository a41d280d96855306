"""The index of a folder of tars (parquet): where each utterance's member lies, so that any one can
be read by itself.

One row an utterance. ``offset`` and ``size`` are the bytes of its payload (``.flac`` in shards,
``.npy`` in features) inside the tar; ``json_offset`` and ``json_size`` those of its description. A
tar is seekable, local or remote.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

INDEX = "index.parquet"


@dataclass(frozen=True)
class IndexEntry:
    """One utterance of a shard."""

    id: str
    shard: str  # file name of the tar
    offset: int
    size: int
    json_offset: int
    json_size: int
    samples: int  # at 16 kHz
    frames: int  # of the encoder; 0 in shards of audio
    text_length: int  # characters
    text: str  # as published
    speaker: str

    @property
    def seconds(self) -> float:
        return self.samples / 16_000


def member_ranges(tar: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each member's data."""
    with tarfile.open(tar) as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


def write_index(path: Path, entries: Sequence[IndexEntry]) -> None:
    """Writes the index; the same entries give the same bytes."""
    kinds = {"str": pa.string(), "int": pa.int64()}
    schema = pa.schema([(field.name, kinds[str(field.type)]) for field in fields(IndexEntry)])
    pq.write_table(
        pa.Table.from_pylist([asdict(entry) for entry in entries], schema=schema),
        path,
        compression="zstd",
    )


def read_index(path: Path) -> list[IndexEntry]:
    """The entries in the order of the shards."""
    return [IndexEntry(**row) for row in pq.read_table(path).to_pylist()]
