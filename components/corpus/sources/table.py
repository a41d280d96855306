"""A table of recordings (kind ``table``; TSV or CSV, UTF-8, with a header line) → its utterances,
or non-speech clips without text.

In: a table with a column of paths, relative to the folder of the table, and optional columns of
text, speaker and language. Any rate, number of channels and format that libsndfile reads. A
``.tsv`` has no quoting; a ``.csv`` has the usual one. Out: every row (or those that ``where``
selects), accepted or rejected. Cost: that of ``components.corpus.inspection``.
"""

from __future__ import annotations

import csv
import hashlib
import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError, nearest
from components.config.schema import STRICT
from components.corpus.files import FileSource, build_scan, read_sizes
from components.corpus.listing import AcceptanceRules, ListedRecording, check_recordings
from components.corpus.manifest import Reject
from components.corpus.source import SpeakerPrefix
from components.runtime.s3 import RemotePath
from components.text.utterance import Utterance

TableRow = dict[str, str]  # cell by column


@dataclass(frozen=True)
class TableColumns:
    """Names of the table's columns; ``null`` where it has none."""

    __pydantic_config__ = STRICT
    path: Annotated[str, Field(description="Column of the path below the root.")] = "path"
    text: Annotated[str | None, Field(description="Column of the transcript.")] = "text"
    speaker: Annotated[str | None, Field(description="Column of the speaker.")] = "speaker"
    language: Annotated[str | None, Field(description="Column of the language.")] = None


@dataclass(frozen=True)
class TableSettings:
    """Settings of a source of kind ``table``."""

    __pydantic_config__ = STRICT
    kind: Literal["table"]
    root: Annotated[str, Field(description="Name of the data root.")]
    table: Annotated[str, Field(description="Path of the .tsv or .csv below the root.")]
    folder: Annotated[
        str, Field(description="Folder of the paths, relative to that of the table.")
    ] = ""
    columns: TableColumns = TableColumns()
    language: Annotated[
        str, Field(description="Of every row, where no column has the language.")
    ] = ""
    speaker_prefix: SpeakerPrefix = ""
    where: Annotated[
        dict[str, list[str | StrictInt]],
        Field(description="Takes the rows whose column has one of these values."),
    ] = field(default_factory=dict)


class TableSource(FileSource[TableSettings]):
    """A source of kind ``table``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(TableSettings, name, role, settings)
        if (self.settings.columns.text is not None) != (role in SPEECH_ROLES):
            requirement = "needs a text column" if role in SPEECH_ROLES else "takes no text"
            raise InputError(
                f"source '{name}': the role '{role}' {requirement}.",
                subject=name,
                hint=(
                    "Set columns.text to the column's name for speech, to null for anything else."
                ),
            )
        if self.settings.language and self.settings.columns.language:
            raise InputError(
                f"source '{name}': both 'language' and 'columns.language' are set.",
                subject=name,
                hint="Remove one of them.",
            )

    @cached_property
    def _rows(self) -> list[TableRow]:
        """All rows of the table, its columns checked."""
        rows = read_rows(self._root, self.settings.table)
        columns = self.settings.columns
        for column in (
            columns.path,
            columns.text,
            columns.speaker,
            columns.language,
            *self.settings.where,
        ):
            check_column(self.settings.table, rows, column)
        return rows

    @cached_property
    def _selected_rows(self) -> list[tuple[int, TableRow]]:
        """(row index, row) of the rows that ``where`` selects."""
        selection = {
            column: {str(value) for value in values}
            for column, values in self.settings.where.items()
        }
        for column, values in selection.items():
            table_values = {row[column] for row in self._rows}
            for value in sorted(values - table_values):
                raise InputError(
                    f"{self.settings.table}: no row has {column} '{value}'.",
                    subject=self.name,
                    hint=nearest(value, table_values),
                )
        selected = [
            (row_index, row)
            for row_index, row in enumerate(self._rows)
            if all(row[column] in values for column, values in selection.items())
        ]
        if not selected:
            raise InputError(
                f"source '{self.name}': 'where' selects no row of {self.settings.table}.",
                subject=self.name,
                hint="Widen it.",
            )
        return selected

    @cached_property
    def _paths(self) -> list[str]:
        """The file of each row, relative to the root; empty if the cell is empty or leads out of
        the root.
        """
        table, folder = self.settings.table, self.settings.folder
        return [
            path_below_root(self._root, table, row[self.settings.columns.path], folder)
            for row in self._rows
        ]

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Size of each file that a selected row names, if it exists."""
        paths = {self._paths[row_index] for row_index, _ in self._selected_rows} - {""}
        return read_sizes(self._root, paths)

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of the table and of the files that it names, and the digest of the
        table's content.
        """
        table, sizes = self.settings.table, self._sizes  # which read the table: it exists
        table_size = (self._root / table).stat().st_size
        return build_scan(self._root, {table: table_size, **sizes}, [table])

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every row that ``where`` selects."""
        id_by_path = unique_ids(self._paths)
        recordings = [
            self._list_recording(row_index, row, id_by_path)
            for row_index, row in self._selected_rows
        ]
        return check_recordings(
            self.name, self._root, recordings, self._sizes, AcceptanceRules(self.role)
        )

    def _list_recording(
        self, row_index: int, row: TableRow, id_by_path: dict[str, str]
    ) -> ListedRecording:
        columns, path = self.settings.columns, self._paths[row_index]
        cell = row[columns.path]
        problem = "it leads out of the data root" if cell else "none is given"
        speaker = row[columns.speaker] if columns.speaker else ""
        return ListedRecording(
            id=id_by_path[path] if path else f"row-{row_index + 1}",
            path=path or cell,
            text=row[columns.text] if columns.text else None,
            speaker=f"{self.settings.speaker_prefix}{speaker}" if speaker else "",
            language=row[columns.language] if columns.language else self.settings.language,
            fault="" if path else f"wrong path: {problem}",
        )


def read_rows(root: Path | RemotePath, table: str) -> list[TableRow]:
    """The rows of a TSV or CSV; raises InputError that names the file and line if it is missing or
    malformed.
    """
    path = root / table
    if path.suffix not in (".tsv", ".csv"):
        raise InputError(
            f"{table}: a table ends in .tsv or .csv.",
            subject=table,
            hint="Name a table, or rename the file.",
        )
    if not path.is_file():
        raise InputError(
            f"{table}: the data root has no such table.",
            subject=table,
            hint=nearest(table, _list_tables(root)),
        )
    is_tsv = path.suffix == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            reader = csv.reader(
                stream,
                delimiter="\t" if is_tsv else ",",
                quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
                strict=True,
            )
            header = next(reader, [])
            return [_row(table, reader.line_num, header, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table}: not a table in UTF-8: {error}.", subject=table, hint="Save it as UTF-8 text."
        ) from None


def _list_tables(root: Path | RemotePath) -> list[str]:
    return [
        path.relative_to(str(root)).as_posix()
        for pattern in ("*.[ct]sv", "*/*.[ct]sv")
        for path in root.glob(pattern)
    ]


def _row(table: str, line: int, header: list[str], cells: list[str]) -> TableRow:
    if len(cells) != len(header) or len(set(header)) != len(header):
        raise InputError(
            f"{table}, line {line}: {len(cells)} fields under a header of {len(set(header))} "
            "different ones.",
            subject=table,
            hint="Correct the line; a .tsv has no quoting, so no field may contain a tab.",
        )
    return {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def check_column(table: str, rows: list[TableRow], column: str | None) -> None:
    """Raises InputError if the table has no rows, or no column of that name."""
    if not rows:
        raise InputError(
            f"{table}: the table has no rows.", subject=table, hint="Add one a recording."
        )
    if column is not None and column not in rows[0]:
        raise InputError(
            f"{table}: no column is called '{column}'.",
            subject=column,
            hint=f"{nearest(column, rows[0])} If the table has none, set it to null.",
        )


def path_below_root(root: Path | RemotePath, table: str, path: str, folder: str = "") -> str:
    """``path`` as relative to the root: an absolute one, or one relative to ``folder`` in the
    folder of the table. Empty if it is not below the root.
    """
    if not path:
        return ""
    if path.startswith("/") and isinstance(root, Path):
        roots = (Path(os.path.abspath(root)), root.resolve())
        absolute = Path(os.path.normpath(path))
        below = [absolute.relative_to(base) for base in roots if absolute.is_relative_to(base)]
        return below[0].as_posix() if below else ""
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(table), folder, path))
    return "" if joined == ".." or joined.startswith(("/", "../")) else joined


def unique_ids(paths: list[str]) -> dict[str, str]:
    """An id for each path: its stem in ASCII letters, digits, - and _, with a digest of the path
    if that is not unique.
    """
    stem_by_path = {path: safe_id(PurePosixPath(path).stem) for path in paths}
    num_by_stem = Counter(stem_by_path.values())
    return {
        path: stem if stem and num_by_stem[stem] == 1 else f"{stem}-{_digest(path)}".lstrip("-")
        for path, stem in stem_by_path.items()
    }


def safe_id(name: str) -> str:
    """``name`` with every run of characters other than ASCII letters, digits, - and _ as one
    hyphen.
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:8]
