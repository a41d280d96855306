"""The parquet files of a batch: the listing of the recordings, and a part for each shard of them.

In: recordings below a folder or ``s3://bucket/prefix``, and their results. Out: ``listing.parquet``
and ``part-NNNNNN.parquet``, each written as a whole or not at all. Cost: a request for each file in
a bucket.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.runtime.folders import NOT_TEXT, printable
from components.runtime.parquet import read_table, write_table
from components.runtime.s3 import RemotePath, write_atomically
from components.transcribe.inputs import list_recordings
from components.transcribe.transcript import Failure, Transcript

LISTING, PART = "listing.parquet", re.compile(r"part-(\d+)\.parquet")
RELIST = "Name another folder for the batch, or remove this one: it is written anew."
REDO = "Remove it: the same command transcribes its recordings again."
AnyPath = Path | RemotePath
_WORD = pa.struct(
    [("text", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("score", pa.float64())]
)
_PASSAGE = pa.struct(
    [
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("words", pa.list_(_WORD)),
    ]
)
PART_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("text", pa.string()),
        ("seconds", pa.float64()),
        ("silent_seconds", pa.float64()),
        ("segments", pa.list_(_PASSAGE)),
        ("failure", pa.string()),
    ]
)
LISTING_SCHEMA = pa.schema([("file", pa.string()), ("bytes", pa.int64()), ("shard", pa.int64())])


@dataclass(frozen=True)
class BatchRecording:
    """A recording of a batch; the fields are the columns of ``listing.parquet``."""

    file: str  # path below the input folder
    bytes: int
    shard: int


def list_files(source: AnyPath) -> tuple[dict[str, int], dict[str, str]]:
    """Bytes of each recording at any depth, by its path below ``source``, in sorted order, and the
    reason for each that is left out, by its name; raises InputError if there is none of both.
    """
    sizes, left_out = list_recordings(source)
    for file in [file for file in sizes if printable(file) != file]:  # parquet holds text alone
        del sizes[file]
        left_out[printable(f"{source}/{file}")] = NOT_TEXT
    return sizes, left_out


def read_listing(target: AnyPath) -> list[BatchRecording]:
    """The recordings that were listed in ``target``; empty if there is no listing."""
    path = target / LISTING
    if not path.is_file():
        return []
    table = read_table(path, LISTING_SCHEMA, hint=RELIST)
    return [BatchRecording(**row) for row in table.to_pylist()]


def write_listing(target: AnyPath, recordings: Sequence[BatchRecording]) -> None:
    """Writes ``listing.parquet``."""
    rows = [asdict(recording) for recording in recordings]
    write_atomically(target / LISTING, _as_parquet(rows, LISTING_SCHEMA))


def extend_listing(
    listing: Sequence[BatchRecording], sizes: Mapping[str, int], shard_size: int
) -> list[BatchRecording]:
    """The listing with the new recordings of ``sizes`` (bytes by file) in new shards of at most
    ``shard_size``.
    """
    listed = {recording.file for recording in listing}
    first = max((recording.shard for recording in listing), default=-1) + 1
    new = [file for file in sizes if file not in listed]
    return [
        *listing,
        *(
            BatchRecording(file, sizes[file], first + index // shard_size)
            for index, file in enumerate(new)
        ),
    ]


def part_path(target: AnyPath, shard: int) -> AnyPath:
    """The file with the results of a shard."""
    return target / f"part-{shard:06d}.parquet"


def finished_shards(target: AnyPath) -> set[int]:
    """Numbers of the shards whose part is written."""
    matches = (PART.fullmatch(path.name) for path in target.iterdir())
    return {int(match[1]) for match in matches if match}


def write_part(target: AnyPath, shard: int, results: Sequence[Transcript | Failure]) -> int:
    """Writes the results of a shard; returns how many of its recordings gave no text."""
    rows = [_row(result) for result in results]
    write_atomically(part_path(target, shard), _as_parquet(rows, PART_SCHEMA))
    return sum(row["failure"] is not None for row in rows)


def read_failures(target: AnyPath, shard: int) -> list[tuple[str, str | None]]:
    """(file, failure) of each recording of a shard; failure is None for one with a transcript."""
    schema = pa.schema([PART_SCHEMA.field(name) for name in ("file", "failure")])
    table = read_table(part_path(target, shard), schema, nullable=("failure",), hint=REDO)
    return [(row["file"], row["failure"]) for row in table.to_pylist()]


def _row(result: Transcript | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"file": result.name, "failure": result.reason}
    row = result.plain()
    return {"file": row.pop("name"), "failure": None, **row}


def _as_parquet(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    """A table as bytes; the same rows give the same bytes."""
    stream = io.BytesIO()
    write_table(stream, pa.Table.from_pylist(list(rows), schema=schema))
    return stream.getvalue()
