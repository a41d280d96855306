"""Experiments against the first of them: differences of word error rates, and whether they are
significant.

In: ``data/score/utterances.parquet`` of each experiment, from DVC's cache by its revision. Out: a
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

from components.runtime.parquet import parse_table
from components.score.figures import UTTERANCES as UTTERANCE_COLUMNS
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
SCHEMA = pa.schema([UTTERANCE_COLUMNS.field(name) for name in COLUMNS])
OTHER_UTTERANCES = (
    "other utterances"  # in place of a difference: the two transcribed different ones
)


@dataclass(frozen=True, eq=False)
class UtteranceErrors:
    """Word errors of one set and system, in the order of ids."""

    ids: list[str]
    speakers: list[str]
    errors: np.ndarray  # int64 (utterances)
    words: np.ndarray  # of the reference, int64 (utterances)

    def has_utterances_of(self, other: UtteranceErrors) -> bool:
        """Whether both are of the same utterances and references, with at least one word."""
        same_ids = self.ids == other.ids
        return same_ids and np.array_equal(self.words, other.words) and bool(self.words.sum())


ErrorsBySystem = Mapping[tuple[str, str], UtteranceErrors]  # by (set, system)


def collect_errors(table: pa.Table) -> dict[tuple[str, str], UtteranceErrors]:
    """Errors by (set, system) of the sets of speech in a table with the columns of ``SCHEMA``."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.select(COLUMNS).to_pylist():
        if not row["role"].startswith("nonspeech"):
            groups.setdefault((row["set"], row["system"]), []).append(row)
    return {key: _build_errors(rows) for key, rows in groups.items()}


def _build_errors(rows: list[dict[str, Any]]) -> UtteranceErrors:
    rows = sorted(rows, key=lambda row: row["id"])
    errors = [row["substitutions"] + row["deletions"] + row["insertions"] for row in rows]
    return UtteranceErrors(
        [row["id"] for row in rows],
        [row["speaker"] for row in rows],
        np.array(errors, dtype=np.int64),
        np.array([row["words"] for row in rows], dtype=np.int64),
    )


def read_errors(revision: str) -> dict[tuple[str, str], UtteranceErrors] | None:
    """Errors of the experiment of that revision; None if DVC has no table of utterances of it: it
    was never written, or is gone from the cache, which DVC does not distinguish.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        with dvc.api.open(str(UTTERANCES), rev=revision, mode="rb") as stream:
            source = pa.BufferReader(stream.read())
            return collect_errors(parse_table(source, f"{UTTERANCES} of {revision}", SCHEMA))
    except (DvcException, FileNotFoundError):
        return None


def list_differences(
    names: Sequence[str], errors: Mapping[str, ErrorsBySystem], resamples: int
) -> list[dict[str, str]]:
    """A row for each experiment after the first, set and system that both have: the difference of
    word error rates in percent points (below 0: better than the first) with its 95 % interval
    (paired bootstrap), the p-value of the matched-pairs test, and ``*`` if it is below 0.05.

    ``errors`` are those of each experiment, by its name. The tests are not corrected for their
    number: of twenty, one is below by chance.
    """
    if not names or names[0] not in errors:
        return []
    baseline = errors[names[0]]
    return [
        {"experiment": name, "set": key[0], "system": key[1]}
        | _build_row(baseline[key], result, resamples)
        for name in names[1:]
        for key, result in errors.get(name, {}).items()
        if key in baseline
    ]


def _build_row(
    baseline: UtteranceErrors, result: UtteranceErrors, resamples: int
) -> dict[str, str]:
    if not baseline.has_utterances_of(result):
        return {"difference": OTHER_UTTERANCES}
    test = compare(baseline.errors, result.errors, baseline.words, baseline.speakers, resamples)
    interval = f" ({format_points(test.low)} to {format_points(test.high)})" if resamples else ""
    return {
        "difference": format_points(test.difference) + interval,
        "p": f"{test.matched_p:.4f}",
        f"p < {ALPHA}": "*" if test.is_significant else "",
    }


def format_points(fraction: float) -> str:
    """A difference in percent points with its sign."""
    return f"{100 * fraction:+.2f}"
