"""A table of recordings (TSV or CSV, UTF-8, with a header line) → its utterances, or non-speech
clips without text.

In: a table with a column of paths, relative to the table's own folder, and as wanted columns of
text, speaker and language. Any rate, number of channels and format that libsndfile reads. A
``.tsv`` has no quoting; a ``.csv`` has the usual one. Out: every row (or those that ``where``
picks), kept or rejected.
"""

from __future__ import annotations

import csv
import hashlib
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError, nearest
from components.config.schema import STRICT
from components.corpus.listing import (
    AcceptanceRules,
    FileSource,
    ListedRecording,
    build_scan,
    check_recordings,
    read_sizes,
)
from components.corpus.manifest import Reject
from components.runtime.s3 import RemotePath
from components.text.utterance import Utterance

TableRow = dict[str, str]


@dataclass(frozen=True)
class TableColumns:
    """Names of the table's columns; ``null`` where it has none."""

    __pydantic_config__ = STRICT
    path: str = "path"
    text: str | None = "text"
    speaker: str | None = "speaker"
    language: str | None = None


@dataclass(frozen=True)
class TableSettings:
    __pydantic_config__ = STRICT
    kind: Literal["table"]
    root: str  # name of the data root
    table: str  # path of the .tsv or .csv below the root
    columns: TableColumns = TableColumns()
    language: str = ""  # of every row, where no column says it
    speaker_prefix: str = (
        ""  # put before each speaker, where two corpora use the same names for different people
    )
    where: dict[str, list[str | int]] = field(
        default_factory=dict
    )  # take the rows whose column has one of these values


class TableSource(FileSource[TableSettings]):
    """A source of kind ``table``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(TableSettings, name, role, settings)
        if (self.settings.columns.text is not None) != (role in SPEECH_ROLES):
            needs = "needs a text column" if role in SPEECH_ROLES else "takes no text"
            raise InputError(
                f"source '{name}': the role '{role}' {needs}.",
                subject=name,
                hint=(
                    "Set columns.text to the column's name for speech, to null for anything else."
                ),
            )
        if self.settings.language and self.settings.columns.language:
            raise InputError(
                f"source '{name}': both 'language' and 'columns.language' are given.",
                subject=name,
                hint="Leave one of them.",
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
    def _picked(self) -> list[tuple[int, TableRow]]:
        """(index, row) of the rows that ``where`` picks."""
        wanted = {
            column: {str(value) for value in values}
            for column, values in self.settings.where.items()
        }
        for column, values in wanted.items():
            known = {row[column] for row in self._rows}
            for value in sorted(values - known):
                raise InputError(
                    f"{self.settings.table}: no row has {column} '{value}'.",
                    subject=self.name,
                    hint=nearest(value, known),
                )
        picked = [
            pair
            for pair in enumerate(self._rows)
            if all(pair[1][column] in values for column, values in wanted.items())
        ]
        if not picked:
            raise InputError(
                f"source '{self.name}': 'where' leaves no row of {self.settings.table}.",
                subject=self.name,
                hint="Widen it.",
            )
        return picked

    @cached_property
    def _paths(self) -> list[str]:
        """The file of each row, relative to the root; empty where it is not given or leads out of
        the root.
        """
        return [
            below_root(self.settings.table, row[self.settings.columns.path]) for row in self._rows
        ]

    @cached_property
    def _files(self) -> dict[str, int]:
        """Size of each file that a picked row names, where it is there."""
        paths = {self._paths[index] for index, _ in self._picked} - {""}
        return read_sizes(self._root, paths)

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of the table and of the files that it names, and the digest of the
        table's content.
        """
        table, files = self.settings.table, self._files
        return build_scan(
            self._root, {table: (self._root / table).stat().st_size, **files}, [table]
        )

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every row that ``where`` picks."""
        ids = ids_of(self._paths)
        entries = [self._entry(index, row, ids) for index, row in self._picked]
        return check_recordings(
            self.name, self._root, entries, self._files, AcceptanceRules(self.role)
        )

    def _entry(self, index: int, row: TableRow, ids: dict[str, str]) -> ListedRecording:
        columns, path = self.settings.columns, self._paths[index]
        given = row[columns.path]
        fault = (
            ""
            if path
            else f"wrong path: {'none is given' if not given else 'it leads out of the data root'}"
        )
        speaker = row[columns.speaker] if columns.speaker else ""
        return ListedRecording(
            id=ids[path] if path else f"row-{index + 1}",
            path=path or given,
            text=row[columns.text] if columns.text else None,
            speaker=f"{self.settings.speaker_prefix}{speaker}" if speaker else "",
            language=row[columns.language] if columns.language else self.settings.language,
            fault=fault,
        )


def read_rows(root: Path | RemotePath, table: str) -> list[TableRow]:
    """The rows of a TSV or CSV; raises InputError naming the file and line where it is missing or
    broken.
    """
    path = root / table
    if path.suffix not in (".tsv", ".csv"):
        raise InputError(f"{table}: a table ends in .tsv or .csv.", subject=table)
    if not path.is_file():
        raise InputError(
            f"{table}: no such table in the data root.",
            subject=table,
            hint=nearest(table, _tables(root)),
        )
    tabs = path.suffix == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(
                stream,
                delimiter="\t" if tabs else ",",
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
                strict=True,
            )
            header = next(reader, [])
            return [_row(table, reader.line_num, header, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table}: not a table in UTF-8: {error}.", subject=table, hint="Save it as UTF-8 text."
        ) from None


def _tables(root: Path | RemotePath) -> list[str]:
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
            hint="Mend the line; a .tsv has no quoting, so no field may hold a tab.",
        )
    return {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def check_column(table: str, rows: list[TableRow], column: str | None) -> None:
    """Raises InputError where the table has no rows, or no column of that name."""
    if not rows:
        raise InputError(f"{table}: the table has no rows.", subject=table)
    if column is not None and column not in rows[0]:
        raise InputError(
            f"{table}: no column is called '{column}'.",
            subject=column,
            hint=f"{nearest(column, rows[0])} Where the table has none, set it to null.",
        )


def below_root(table: str, path: str) -> str:
    """``path``, given relative to the table's folder, as relative to the root; empty where it is
    not below the root.
    """
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(table), path))
    return "" if not path or joined.startswith(("/", "..")) else joined


def ids_of(paths: list[str]) -> dict[str, str]:
    """A name for each path: its stem in ASCII letters, digits, - and _, with a digest of the path
    where that is not unique.
    """
    stems = {path: safe(PurePosixPath(path).stem) for path in paths}
    shared = Counter(stems.values())
    return {
        path: stem if stem and shared[stem] == 1 else f"{stem}-{_digest(path)}".lstrip("-")
        for path, stem in stems.items()
    }


def safe(name: str) -> str:
    """``name`` with every run of other characters than ASCII letters, digits, - and _ as one
    hyphen.
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:8]
