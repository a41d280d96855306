"""Experiments against the first of them: differences of word error rates, and whether they are more
than chance.

In: ``data/score/utterances.parquet`` of each experiment, out of DVC's cache by its revision. Out: a
row for each set of speech and system that both have. An experiment that failed, or one without that
table, gives no row. Cost: about a second an experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.score.significance import ALPHA, compare

UTTERANCES = Path("data/score/utterances.parquet")
COLUMNS = [
    "set",
    "role",
    "system",
    "id",
    "speaker",
    "substitutions",
    "deletions",
    "insertions",
    "words",
]
NOT_ALIKE = "other utterances"  # where the two did not hear the same


@dataclass(frozen=True, eq=False)
class Errors:
    """Of one set and system, in the order of ids: arrays of int64 [utterances], and who speaks."""

    ids: list[str]
    speakers: list[str]
    errors: np.ndarray
    words: np.ndarray


def errors_of(table: pa.Table) -> dict[tuple[str, str], Errors]:
    """Errors by (set, system) of the sets of speech in a table of utterances."""
    held: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.select(COLUMNS).to_pylist():
        if not row["role"].startswith("nonspeech"):
            held.setdefault((row["set"], row["system"]), []).append(row)
    found = {}
    for key, own in held.items():
        own.sort(key=lambda row: row["id"])
        errors = [row["substitutions"] + row["deletions"] + row["insertions"] for row in own]
        words = np.array([row["words"] for row in own], dtype=np.int64)
        found[key] = Errors(
            [row["id"] for row in own],
            [row["speaker"] for row in own],
            np.array(errors, dtype=np.int64),
            words,
        )
    return found


def read_errors(revision: str) -> dict[tuple[str, str], Errors] | None:
    """Errors of the experiment of that revision; None where DVC has no table of utterances of it:
    it was never made, or is gone from the cache, which DVC does not tell apart.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        with dvc.api.open(str(UTTERANCES), rev=revision, mode="rb") as stream:
            return errors_of(pq.read_table(pa.BufferReader(stream.read())))
    except (DvcException, FileNotFoundError):
        return None


def differences(
    names: Sequence[str], found: Mapping[str, Mapping[tuple[str, str], Errors]], resamples: int
) -> list[dict[str, str]]:
    """A row for each experiment after the first, set and system that both have: the difference of
    word error rates in percent points (less than 0: better than the first) with its 95 % interval
    (paired bootstrap), the p-value of the matched-pairs test, and ``*`` where it is below 0.05. The
    tests are not corrected for their number: of twenty, one is below by chance.
    """
    if not names or names[0] not in found:
        return []
    base, rows = found[names[0]], []
    for name in names[1:]:
        for key, own in found.get(name, {}).items():
            if key in base:
                rows.append(
                    {
                        "experiment": name,
                        "set": key[0],
                        "system": key[1],
                        **_row(base[key], own, resamples),
                    }
                )
    return rows


def _row(base: Errors, own: Errors, resamples: int) -> dict[str, str]:
    if base.ids != own.ids or not np.array_equal(base.words, own.words) or not base.words.sum():
        return {"difference": NOT_ALIKE}
    result = compare(base.errors, own.errors, base.words, base.speakers, resamples)
    ends = f" ({signed(result.low)} to {signed(result.high)})" if resamples else ""
    return {
        "difference": signed(result.difference) + ends,
        "p": f"{result.matched_p:.4f}",
        f"p < {ALPHA}": "*" if result.is_significant else "",
    }


def signed(fraction: float) -> str:
    """A difference in percent points with its sign."""
    return f"{100 * fraction:+.2f}"
