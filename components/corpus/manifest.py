"""The manifest of a source (parquet, one row an ``Utterance``), and the rejects beside it.

What a source finds is either in the manifest or in the rejects, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from components.config.errors import REPAIR, InputError
from components.runtime.parquet import open_writer, read_table
from components.text.utterance import Utterance

MANIFEST = "manifest.parquet"
REJECTS = "rejects.parquet"
ROW_GROUP = 1 << 20  # rows written at once: the row group into which pyarrow divides a table itself


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused recording or transcript."""

    id: str
    path: str
    reason: str  # and, if there is one, how to fix it


def altered_path(original: Utterance) -> str:
    """Path, below its unit, of an altered copy of a recording: it names the original by digest and
    id.
    """
    return f"{original.sha256}/{original.id}.flac"


def restore_original(altered: Utterance) -> Utterance:
    """The row of an altered copy with the id and digest of the recording that it is a copy of
    (``altered_path``).
    """
    path = PurePosixPath(altered.path)
    return replace(altered, id=path.stem, sha256=path.parent.name)


def _schema(row_type: type) -> pa.Schema:
    column_types = {"str": pa.string(), "int": pa.int64()}
    return pa.schema([(field.name, column_types[str(field.type)]) for field in fields(row_type)])


def write_rows(path: Path, row_type: type, rows: Sequence[Any]) -> None:
    """Writes dataclass rows as parquet, one row group at a time; the same rows give the same bytes.

    Raises KeyError for a field that is neither ``str`` nor ``int``.
    """
    schema = _schema(row_type)
    with open_writer(path, schema) as writer:
        for start in range(0, max(len(rows), 1), ROW_GROUP):
            group = rows[start : start + ROW_GROUP]
            columns = {name: [getattr(row, name) for row in group] for name in schema.names}
            writer.write_table(pa.table(columns, schema), ROW_GROUP)


def read_manifest(folder: Path) -> list[Utterance]:
    """The accepted utterances of one source, in manifest order (by id); raises InputError where the
    manifest is missing or damaged.
    """
    path = folder / MANIFEST
    rows = [Utterance(**row) for row in read_table(path, _schema(Utterance)).to_pylist()]
    for row in rows:
        if row.sample_rate <= 0 or row.samples < 0:
            raise InputError(
                f"{path}, utterance '{row.id}': {row.samples} samples at {row.sample_rate} Hz.",
                subject=str(path),
                hint=REPAIR,
            )
    return rows


def read_rejects(folder: Path) -> list[Reject]:
    """The rejects of one source; raises InputError where their file is missing or damaged."""
    return [Reject(**row) for row in read_table(folder / REJECTS, _schema(Reject)).to_pylist()]
