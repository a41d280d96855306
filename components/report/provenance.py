"""What the page says of where its figures come from: the records of the artifacts, and (in the copy
of ``runs/``) times and machines.

In: ``inputs.json`` of each artifact, ``runs/<stage>/*.json``. Out: rows of text. The records hold
nothing that differs between two equal runs, so the page that is hashed shows them alone; the rest
is for ``runs/report/index.html``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime.artifact import read_record

SHOWN = 100  # inputs of an artifact; a large corpus has thousands of tars
DIGEST = 16  # hexadecimal digits of a hash: enough to tell any two apart


@dataclass(frozen=True)
class Artifact:
    """One artifact: where it lies, the stage that made it, and what of, as rows of name
    and value.
    """

    path: str
    stage: str
    parameters: list[tuple[str, str]]
    inputs: list[tuple[str, str]]
    more: int  # inputs that are not shown
    libraries: list[tuple[str, str]]


def artifacts(folders: Sequence[Path]) -> list[Artifact]:
    """The artifacts in the order given; raises InputError where a folder is not whole."""
    found = []
    for folder in folders:
        record = read_record(folder)
        inputs = [(name, _short(value)) for name, value in _flat(record.get("inputs"))]
        found.append(
            Artifact(
                folder.as_posix(),
                str(record["stage"]),
                _flat(record.get("parameters")),
                inputs[:SHOWN],
                max(0, len(inputs) - SHOWN),
                _flat(record.get("libraries")),
            )
        )
    return found


def _flat(data: Any, above: str = "") -> list[tuple[str, str]]:
    """Nested plain data as rows: names joined by dots, values as text. Lists of plain values are
    one value.
    """
    if isinstance(data, dict) and data:
        return [
            row
            for name, value in data.items()
            for row in _flat(value, f"{above}.{name}" if above else str(name))
        ]
    if isinstance(data, list) and any(isinstance(value, (dict, list)) for value in data):
        return [
            row for number, value in enumerate(data) for row in _flat(value, f"{above}.{number}")
        ]
    if data is None and not above:
        return []
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return [(above, text)] if above else []


def _short(value: str) -> str:
    whole = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:DIGEST] if whole else value


def timings(runs: Path) -> list[list[str]]:
    """The latest run of each stage, in the order they ran: stage, start, seconds, host, revision of
    the code.
    """
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted(runs.glob("*/*.json")):
        record = json.loads(path.read_text())
        if record["started"] >= latest.get(record["stage"], {"started": ""})["started"]:
            latest[record["stage"]] = record
    return [
        [
            record["stage"],
            record["started"],
            f"{record['seconds']:.1f}",
            record.get("host", ""),
            record.get("revision", "")[:12] + (" and changes" if record.get("dirty") else ""),
        ]
        for record in sorted(latest.values(), key=lambda record: record["started"])
    ]
