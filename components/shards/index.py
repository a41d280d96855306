"""The index of a folder of tars (parquet): where the payload of each utterance is, so that any one
can be read by itself.

One row for each utterance, its columns the fields of ``IndexEntry``. A tar is seekable, local or
remote. Cost: some milliseconds for 10,000 rows.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

INDEX = "index.parquet"
RATE = 16_000  # Hz, of all audio in shards


@dataclass(frozen=True)
class IndexEntry:
    """One utterance of a shard; the fields are the columns of the parquet file, in order."""

    id: str
    shard: str  # file name of the tar
    offset: int  # bytes from the start of the tar to the payload (.flac, or .npy of features)
    size: int  # bytes of the payload
    json_offset: int  # bytes from the start of the tar to the description
    json_size: int  # bytes of the description
    samples: int  # at 16 kHz
    frames: int  # of the encoder; 0 in shards of audio
    text_length: int  # characters
    text: str  # as published
    speaker: str  # empty: unknown

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.samples / RATE


def read_member_ranges(tar: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of the data of each member, by its name."""
    with tarfile.open(tar) as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


def write_index(path: Path, entries: Sequence[IndexEntry]) -> None:
    """Writes the index; the same entries give the same bytes."""
    types = {"str": pa.string(), "int": pa.int64()}
    schema = pa.schema([(field.name, types[str(field.type)]) for field in fields(IndexEntry)])
    pq.write_table(
        pa.Table.from_pylist([asdict(entry) for entry in entries], schema=schema),
        path,
        compression="zstd",
    )


def read_index(path: Path) -> list[IndexEntry]:
    """The entries in the order in which they were written."""
    return [IndexEntry(**row) for row in pq.read_table(path).to_pylist()]
