"""Pairs whose substitutions, deletions and insertions were counted by hand (``pairs.tsv``).

Only pairs whose minimal alignments all have the same counts: "a b" against "b a" is two
substitutions, or a deletion and an insertion, so it tests nothing.
"""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest

from components.text.wer import WordErrors, count_word_errors

with (Path(__file__).parent / "pairs.tsv").open(encoding="utf-8", newline="") as stream:
    PAIRS = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
Split = tuple[int, int, int]


def minimal_splits(reference: list[str], hypothesis: list[str]) -> set[Split]:
    """(substitutions, deletions, insertions) of every minimal alignment, by filling the table of
    Wagner and Fischer 1974.
    """
    table: dict[tuple[int, int], tuple[int, set[Split]]] = {(0, 0): (0, {(0, 0, 0)})}
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            options: list[tuple[int, set[Split]]] = []
            if i and j:
                cost, splits = table[i - 1, j - 1]
                wrong = int(reference[i - 1] != hypothesis[j - 1])
                options.append((cost + wrong, {(s + wrong, d, n) for s, d, n in splits}))
            if i:
                cost, splits = table[i - 1, j]
                options.append((cost + 1, {(s, d + 1, n) for s, d, n in splits}))
            if j:
                cost, splits = table[i, j - 1]
                options.append((cost + 1, {(s, d, n + 1) for s, d, n in splits}))
            if options:
                lowest = min(cost for cost, _ in options)
                table[i, j] = (
                    lowest,
                    set().union(*(splits for cost, splits in options if cost == lowest)),
                )
    return table[len(reference), len(hypothesis)][1]


def test_there_are_at_least_fifty_pairs() -> None:
    assert len(PAIRS) >= 50
    assert len({(pair["reference"], pair["hypothesis"]) for pair in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_the_counts_are_those_by_hand(pair: dict[str, str]) -> None:
    split = int(pair["substitutions"]), int(pair["deletions"]), int(pair["insertions"])
    errors = count_word_errors([pair["reference"]], [pair["hypothesis"]], "casefold")
    assert errors == WordErrors(*split, words=len(pair["reference"].split()))
    assert minimal_splits(fold(pair["reference"]), fold(pair["hypothesis"])) == {split}, (
        "the counts depend on the alignment"
    )


def fold(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).replace("\u2019", "'").casefold().split()
