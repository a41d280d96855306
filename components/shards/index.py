"""The index of a folder of tars (parquet): where the payload of each utterance is, so that any one
can be read by itself.

One row for each utterance, its columns the fields of ``IndexEntry``. A tar is seekable, local or
remote. Each member has its CRC-32 (zlib's, of the standard library): it detects each flipped bit
and all but one in 4·10⁹ other changes, and reads more than 10⁹ bytes a second, twice as fast as
SHA-256; against intent there are the digests of ``inputs.json``. Cost: some milliseconds for 10,000
rows.
"""

from __future__ import annotations

import logging
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from components.config.errors import REPAIR, InputError
from components.runtime.parquet import read_table, write_table

INDEX = "index.parquet"
FORMAT = 2  # of the index, in the metadata of its schema; 1 has neither number nor checksums
NO_CHECKSUM = -1  # of a member that an index of format 1 lists
log = logging.getLogger(__name__)
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
    checksum: int = NO_CHECKSUM  # CRC-32 of the payload
    json_checksum: int = NO_CHECKSUM  # CRC-32 of the description

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.samples / RATE


def read_member_ranges(tar: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of the data of each member, by its name."""
    with tarfile.open(tar) as archive:
        return {member.name: (member.offset_data, member.size) for member in archive}


def member_checksum(data: bytes) -> int:
    """CRC-32 of the bytes of a member, as the index has it."""
    return zlib.crc32(data)


def write_index(path: Path, entries: Sequence[IndexEntry]) -> None:
    """Writes the index; the same entries give the same bytes."""
    schema = _SCHEMA.with_metadata({"format": str(FORMAT)})
    write_table(path, pa.Table.from_pylist([asdict(entry) for entry in entries], schema=schema))


def read_index(path: Path) -> list[IndexEntry]:
    """The entries in the order in which they were written.

    Raises InputError that names the index where it is damaged, has a later format, or names what
    can't be in a tar beside it: a path in place of a file name, or an offset, size or count below 0
    or over 2⁶².
    """
    table = read_table(path, _SCHEMA, optional=("checksum", "json_checksum"))
    number = (table.schema.metadata or {}).get(b"format", b"1").decode("ascii", "replace")
    if number not in ("1", str(FORMAT)):
        raise InputError(
            f"{path} has the format {number}; this version reads {FORMAT}.",
            subject=str(path),
            hint="Update the checkout, or run 'dvc repro' to make it again.",
        )
    entries = [IndexEntry(**row) for row in table.to_pylist()]
    for entry in entries:
        _check_entry(path, entry)
    if entries and any(entry.checksum == NO_CHECKSUM for entry in entries):
        _log_missing_checksums(str(path))
    return entries


def _check_entry(path: Path, entry: IndexEntry) -> None:
    if not is_file_name(entry.shard):
        raise _wrong_entry(path, entry, f"its tar '{entry.shard!r}' is no plain file name")
    for name in _COUNTS:
        if not 0 <= getattr(entry, name) <= MAX_COUNT:
            raise _wrong_entry(path, entry, f"{name} is {getattr(entry, name)}")


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file in a folder, and leads nowhere else."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _wrong_entry(path: Path, entry: IndexEntry, reason: str) -> InputError:
    return InputError(f"{path}, utterance '{entry.id}': {reason}.", subject=str(path), hint=REPAIR)


@lru_cache(maxsize=256)
def _log_missing_checksums(path: str) -> None:
    """Says once for each index that its members can't be checked."""
    log.info("%s: an index of format 1: its members have no checksums and are not checked", path)


_SCHEMA = pa.schema(
    [
        (field.name, {"str": pa.string(), "int": pa.int64()}[str(field.type)])
        for field in fields(IndexEntry)
    ]
)
_COUNTS = ("offset", "size", "json_offset", "json_size", "samples", "frames", "text_length")
MAX_COUNT = 1 << 62  # so that the sum of an offset and a size is a plain number of 64 bits
