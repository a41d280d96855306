"""Hypotheses as parquet: one row for each utterance and system, so that scoring never decodes
again.

In and out: ``components.text.hypothesis.Hypothesis``. The column ``others`` holds the alternatives
of the n-best list, best first, as text and score. Cost: some 100,000 rows a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.runtime.parquet import read_table, write_table
from components.text.hypothesis import Hypothesis

SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("reference", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int64())),
        ("score", pa.float64()),
        ("seconds", pa.float64()),
        ("at_limit", pa.bool_()),
        ("others", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))),
    ]
)


def write_hypotheses(path: Path, hypotheses: Sequence[Hypothesis]) -> None:
    """Writes the hypotheses in their order; the same hypotheses give the same bytes."""
    rows = [_to_row(hypothesis) for hypothesis in hypotheses]
    write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """The hypotheses in the order in which they were written: by system, then as in the shards.
    Raises InputError where the file is missing or damaged.
    """
    table = read_table(
        path, SCHEMA, optional=("at_limit", "others"), nullable=("others", "reference", "text")
    )
    return [_from_row(row) for row in table.to_pylist()]


def read_alternatives(path: Path) -> dict[tuple[str, str], list[Hypothesis]]:
    """The alternatives of each hypothesis by system and utterance id; empty where the file or the
    column does not exist. Raises InputError where the file is damaged.
    """
    if not path.is_file():
        return {}
    schema = pa.schema([SCHEMA.field(name) for name in ("system", "id", "others")])
    rows = read_table(path, schema, optional=("others",), nullable=("others",)).to_pylist()
    return {
        (row["system"], row["id"]): _alternatives(row["others"]) for row in rows if "others" in row
    }


def _to_row(hypothesis: Hypothesis) -> dict[str, Any]:
    return {
        "system": hypothesis.system,
        "id": hypothesis.utterance_id,
        "speaker": hypothesis.speaker,
        "language": hypothesis.language,
        "reference": hypothesis.reference,
        "text": hypothesis.text,
        "tokens": hypothesis.tokens,
        "score": hypothesis.score,
        "seconds": hypothesis.duration_s,
        "at_limit": hypothesis.at_limit,
        "others": [
            {"text": alternative.text, "score": alternative.score}
            for alternative in hypothesis.alternatives
        ],
    }


def _from_row(row: dict[str, Any]) -> Hypothesis:
    return Hypothesis(
        text=row["text"],
        tokens=row["tokens"],
        score=row["score"],
        alternatives=_alternatives(row.get("others")),
        system=row["system"],
        utterance_id=row["id"],
        speaker=row["speaker"],
        language=row["language"],
        reference=row["reference"],
        duration_s=row["seconds"],
        at_limit=row.get("at_limit", False),  # older files do not say
    )


def _alternatives(column: list[dict[str, Any]] | None) -> list[Hypothesis]:
    return [Hypothesis(value["text"], score=value["score"]) for value in column or ()]
