"""CSV files of this project: read with a check of their columns.

In: a path and the columns that hold numbers. Out: rows as text, by column. Cost: that of parsing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path

from components.config.errors import REPAIR, InputError, damaged_file


def read_csv(
    path: Path,
    columns: Collection[str] = (),
    *,
    counts: Collection[str] = (),
    numbers: Collection[str] = (),
    optional_numbers: Collection[str] = (),
    hint: str = REPAIR,
) -> list[dict[str, str]]:
    """The rows of a file that has at least ``columns`` and those of the others: ``counts`` are
    whole numbers from 0 on, ``numbers`` numbers, ``optional_numbers`` numbers or empty.

    Raises InputError, with ``hint``, where the file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
            names = list(reader.fieldnames or ())
    except FileNotFoundError:
        raise InputError(f"{path} is missing.", subject=str(path), hint=hint) from None
    except (OSError, ValueError, csv.Error) as error:
        raise damaged_file(path, str(error), hint) from None
    required = [*columns, *counts, *numbers, *optional_numbers]
    missing = [name for name in required if name not in names]
    if missing:
        raise damaged_file(path, f"it has no column '{missing[0]}'", hint)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise damaged_file(path, f"line {number} has not one value for each column", hint)
        for name in [*counts, *numbers, *optional_numbers]:
            is_empty = name in optional_numbers and not row[name]
            is_right = _is_count(row[name]) if name in counts else _is_number(row[name])
            if not is_empty and not is_right:
                raise damaged_file(path, f"line {number}: {name} is '{row[name]}'", hint)
    return rows


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _is_number(text: str) -> bool:
    try:
        return not math.isinf(float(text))  # not a number is one that was not measured
    except ValueError:
        return False
