"""The hypotheses of a source (parquet): one row for each utterance and system; scoring never
decodes again.

A system is a constraint set of ``params.yaml``, or ``ctc``: the encoder's own text, the baseline;
``whisper``: that of Whisper's own decoder; or ``llm``, which holds no text: tokens and score are
those of the reference under the LLM alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CTC = "ctc"
WHISPER = "whisper"
ALONE = "llm"  # no hypothesis: the reference's log-probability under the LLM alone
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
        ("others", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))),
    ]
)


@dataclass(frozen=True)
class Other:
    """A text that the search had beside the best one."""

    text: str
    score: float


@dataclass(frozen=True)
class Row:
    """One hypothesis; ``text`` is raw, ``score`` its log-probability (nan for ``ctc`` and
    ``whisper``), ``seconds`` of audio; ``others`` of the n-best, best first.
    """

    system: str
    id: str
    speaker: str
    language: str
    reference: str
    text: str
    tokens: list[int]
    score: float
    seconds: float
    others: list[Other] = field(default_factory=list)


def write_hypotheses(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows; the same rows give the same bytes."""
    pq.write_table(
        pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), path, compression="zstd"
    )


def read_hypotheses(path: Path) -> list[Row]:
    """The rows in the order they were written: by system, then as in the shards."""
    rows = pq.read_table(path).to_pylist()
    return [
        Row(**{**row, "others": [Other(**other) for other in row["others"] or ()]}) for row in rows
    ]
