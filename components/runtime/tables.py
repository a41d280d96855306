"""Rows of text as a table with aligned columns, for results that a command prints.

In: a mapping a row, from a column's name to its text. Out: text. Cost: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def format_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as lines of aligned columns below a line of their names; the columns are those of all
    rows, in the order of their first use.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )
