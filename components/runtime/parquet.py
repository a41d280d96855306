"""Parquet files of this project: written with a checksum a page, read with a check of columns.

In and out: tables of pyarrow. What reads a damaged file stops with InputError, whatever the damage.
Cost: the checksum of Parquet's format (CRC-32) takes less than a millisecond for a million bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.config.errors import REPAIR, InputError, damaged_file

if TYPE_CHECKING:
    from components.runtime.s3 import RemotePath

COMPRESSION = "zstd"


def write_table(path: Any, table: pa.Table) -> None:
    """Writes a table to a path or stream; the same table gives the same bytes."""
    pq.write_table(table, path, compression=COMPRESSION, write_page_checksum=True)


def open_writer(path: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of tables one after the other, to be used as a context; the same tables give the
    same bytes.
    """
    return pq.ParquetWriter(path, schema, compression=COMPRESSION, write_page_checksum=True)


def read_table(
    path: Path | RemotePath,
    schema: pa.Schema,
    *,
    optional: Collection[str] = (),
    nullable: Collection[str] = (),
    hint: str = REPAIR,
) -> pa.Table:
    """The columns of ``schema`` from a file, those named in ``optional`` only where it has them;
    further columns are not read. The metadata of its schema is that of the file.

    Raises InputError, with ``hint``, where the file is missing or damaged, or lacks a column, has
    one of another type, or one without all values that is not among ``nullable``.
    """
    try:
        source = path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
        return parse_table(
            source, str(path), schema, optional=optional, nullable=nullable, hint=hint
        )
    except FileNotFoundError:
        raise InputError(f"{path} is missing.", subject=str(path), hint=hint) from None
    except OSError as error:
        raise damaged_file(str(path), error.strerror or str(error), hint) from None


def parse_table(
    source: Any,
    path: str,
    schema: pa.Schema,
    *,
    optional: Collection[str] = (),
    nullable: Collection[str] = (),
    hint: str = REPAIR,
) -> pa.Table:
    """``read_table`` of a stream or a path; errors name ``path``."""
    names = [name for name in schema.names if name not in optional]
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            stored = file.schema_arrow
            missing = [name for name in names if name not in stored.names]
            if missing:
                raise damaged_file(path, f"it has no column '{missing[0]}'", hint)
            names = [name for name in schema.names if name in stored.names]
            for name in names:
                if stored.field(name).type != schema.field(name).type:
                    reason = f"the column '{name}' has the type {stored.field(name).type}"
                    raise damaged_file(path, f"{reason}, not {schema.field(name).type}", hint)
            table = file.read(columns=names)
        table.validate(full=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise damaged_file(path, str(error).splitlines()[0] if str(error) else "", hint) from None
    for name in names:
        if name not in nullable and table[name].null_count:
            raise damaged_file(path, f"the column '{name}' lacks values", hint)
    return table.select(names)
