"""The training curve, ``metrics/curve.csv``: one row for each optimiser step.

In: rows by column, one JSON line a step, in the folders of the stages. Out: one table of all. Cost:
milliseconds.

==============  ====================================================================================
``step``        number of the step in the whole curriculum, from 0
``stage``       name of the stage
``epoch``       passes of the stage over its utterances after the step, as a fraction
``audio_s``     seconds of audio in the batch, as recorded
``loss``        cross-entropy of a target token
``matching``    matching loss of a target token
``accuracy``    share of target tokens that are predicted
``dev_wer``     decoded word error rate on dev as a fraction; empty where dev was not decoded
==============  ====================================================================================

A training that has such also has ``ctc`` (CTC loss of the encoder, of an utterance), ``skipped`` (1
where fp16 overflowed) and ``stopped`` (``early`` where a stage ended before its last step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.train.stage_cache import CURVE

COLUMNS = ("step", "stage", "epoch", "audio_s", "loss", "matching", "accuracy", "dev_wer")
OPTIONAL_COLUMNS = ("ctc", "skipped", "stopped")


def write_curve(path: Path, rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Writes rows as a table; without rows, where nothing was trained, only its head."""
    columns = [*COLUMNS, *(name for name in OPTIONAL_COLUMNS if any(name in row for row in rows))]
    lines = [",".join(_cell(row.get(column, "")) for column in columns) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")


def read_stage_rows(scratch: Path) -> list[dict[str, Any]]:
    """The rows of all stages in ``scratch``, in the order of the curriculum."""
    paths = sorted(scratch.glob(f"*/{CURVE}"), key=lambda path: int(path.parent.name.split("-")[0]))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def _cell(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)
