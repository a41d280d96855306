"""Provenance of the figures on the page: the records of the artifacts, and (in the copy below
``runs/``) times and machines.

In: ``inputs.json`` of each artifact, ``runs/<stage>/*.json``. Out: rows of text. The records are
equal for two equal runs, so the page that DVC hashes shows only these. Times and machines are only
in ``runs/report/index.html``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime.artifact import read_record
from components.runtime.stage import read_run

MAX_INPUTS = 100  # of an artifact on the page; a large corpus has thousands of tars
DIGEST_DIGITS = 16  # hexadecimal digits of a hash on the page: enough to tell two apart


@dataclass(frozen=True)
class ArtifactRecord:
    """The record of one artifact; parameters, inputs and libraries are rows of name and value."""

    path: str
    stage: str
    parameters: list[tuple[str, str]]
    inputs: list[tuple[str, str]]
    num_omitted: int  # inputs that are not in ``inputs``
    libraries: list[tuple[str, str]]


def read_artifacts(folders: Sequence[Path]) -> list[ArtifactRecord]:
    """The records in the order of ``folders``; raises InputError if a folder is incomplete."""
    artifacts = []
    for folder in folders:
        record = read_record(folder)
        inputs = [(name, _shorten(value)) for name, value in _flatten(record.get("inputs"))]
        artifacts.append(
            ArtifactRecord(
                folder.as_posix(),
                str(record["stage"]),
                _flatten(record.get("parameters")),
                inputs[:MAX_INPUTS],
                max(0, len(inputs) - MAX_INPUTS),
                _flatten(record.get("libraries")),
            )
        )
    return artifacts


def _flatten(data: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as rows: names joined by dots, values as text.

    A list of plain values is one value.
    """
    if isinstance(data, dict) and data:
        return [
            row
            for name, value in data.items()
            for row in _flatten(value, f"{prefix}.{name}" if prefix else str(name))
        ]
    if isinstance(data, list) and any(isinstance(value, (dict, list)) for value in data):
        return [
            row for index, value in enumerate(data) for row in _flatten(value, f"{prefix}.{index}")
        ]
    if data is None and not prefix:
        return []
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return [(prefix, text)] if prefix else []


def _shorten(value: str) -> str:
    is_sha256 = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:DIGEST_DIGITS] if is_sha256 else value


def run_times(runs: Path) -> list[list[str]]:
    """The latest run of each stage in the order of their start: stage, start, seconds, host,
    revision of the code.
    """
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted(runs.glob("*/*.json")):
        record = read_run(path)
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
