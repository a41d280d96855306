"""The manifest: one row an utterance (parquet), and the rejects beside it. Found = kept + rejected,
always.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from components.text.utterance import Utterance

MANIFEST = "manifest.parquet"
REJECTS = "rejects.parquet"
GROUP = 1 << 20  # rows written at once: the row group that pyarrow cuts a table into by itself


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused recording or transcript, with the reason and, where there is one, the way out."""

    id: str
    path: str
    reason: str


def altered_path(original: Utterance) -> str:
    """Path below its unit of a changed copy of a recording: it says which recording that was, by
    digest and id.
    """
    return f"{original.sha256}/{original.id}.flac"


def restore_original(row: Utterance) -> Utterance:
    """The row of a changed copy with the id and digest of the recording that it was made from
    (``altered_path``).
    """
    path = PurePosixPath(row.path)
    return replace(row, id=path.stem, sha256=path.parent.name)


def _schema(row: type) -> pa.Schema:
    kinds = {"str": pa.string(), "int": pa.int64()}
    return pa.schema([(field.name, kinds[str(field.type)]) for field in fields(row)])


def write_rows(path: Path, row: type, rows: list) -> None:
    """Writes dataclass rows as parquet, a group at a time; the same rows give the same bytes."""
    schema = _schema(row)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, max(len(rows), 1), GROUP):
            group = rows[start : start + GROUP]
            writer.write_table(
                pa.table(
                    {name: [getattr(entry, name) for entry in group] for name in schema.names},
                    schema,
                ),
                GROUP,
            )


def read_manifest(folder: Path) -> list[Utterance]:
    """The kept utterances of one source, in manifest order (by id)."""
    return [Utterance(**row) for row in pq.read_table(folder / MANIFEST).to_pylist()]


def read_rejects(folder: Path) -> list[Reject]:
    """What one source refused."""
    return [Reject(**row) for row in pq.read_table(folder / REJECTS).to_pylist()]
