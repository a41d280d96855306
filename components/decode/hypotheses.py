"""The hypotheses of a source (parquet): one row for each utterance and system; scoring never decodes again.

A system is a constraint set of ``params.yaml``, or ``ctc``: the encoder's own text, the baseline; or ``llm``, which holds no text:
tokens and score are those of the reference under the LLM alone. What beam search found beside the best stands in ``others``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CTC = "ctc"
ALONE = "llm"  # no hypothesis: the reference's log-probability under the LLM alone
SCHEMA = pa.schema([
    ("system", pa.string()), ("id", pa.string()), ("speaker", pa.string()), ("language", pa.string()), ("reference", pa.string()),
    ("text", pa.string()), ("tokens", pa.list_(pa.int64())), ("score", pa.float64()), ("seconds", pa.float64()),
    ("others", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))),
])  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One hypothesis; ``text`` is raw, ``score`` its log-probability (nan for ``ctc``), ``seconds`` of audio."""

    system: str
    id: str
    speaker: str
    reference: str
    text: str
    tokens: list[int]
    score: float
    seconds: float
    language: str = ""  # of the utterance; empty: not known
    others: list[dict[str, Any]] = field(default_factory=list)  # {text, score} of the n-best after the best, best first


def write_hypotheses(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows; the same rows give the same bytes."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), path, compression="zstd")


def read_hypotheses(path: Path) -> list[Row]:
    """The rows in the order they were written: by system, then as in the shards."""
    return [Row(**row) for row in pq.read_table(path).to_pylist()]
