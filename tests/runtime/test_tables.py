"""Rows as text."""

from __future__ import annotations

from components.runtime.tables import format_table


def test_columns_are_aligned_in_the_order_of_their_first_use() -> None:
    rows = [{"a": "1", "b": "x"}, {"a": "1000", "c": "y"}]
    assert format_table(rows) == "a     b  c\n1     x\n1000     y"


def test_no_rows_are_an_empty_line() -> None:
    assert format_table([]) == ""
