"""The result tables for the terminal: error rates with intervals, inserted words by kind, text on
non-speech, seconds a stage, where the artifacts lie.

In: ``metrics/score.json`` and ``runs/``. Out: lines on standard output; costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.config.errors import InputError
from components.runtime.stage import RUNS
from components.score.build import METRICS
from components.score.insertions import CLIP_KINDS, KINDS

ARTIFACTS = {
    "data/report/index.html": "the report",
    "models/bridge": "the trained bridge",
    "models/encoder": "encoder",
    "models/llm": "LLM",
    "data/decode": "hypotheses",
    "data/score/speakers.csv": "word error rate by speaker",
    "data/score/groups.csv": "by length and language",
    "data/score/utterances.parquet": "errors of every utterance",
    "metrics/curve.csv": "training curve",
    "metrics/train.json": "where its accuracy jumps",
    "metrics/score.json": "these figures",
}
WIDTH = 110  # columns, where the output is no terminal
Figures = Iterator[tuple[str, str, Mapping[str, Any]]]


def show() -> None:
    """Prints the tables; raises InputError where nothing was scored yet."""
    if not METRICS.is_file():
        raise InputError(f"{METRICS} is not there.", hint="Run 'dvc repro'.")
    scores = json.loads(METRICS.read_text())
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(_words(scores))
    parts = [
        name
        for name, systems in scores.items()
        if any(each.get("words_checked") is False for each in systems.values())
    ]
    if parts:
        console.print(
            "Not all of the published set, so not to stand beside published rates: "
            f"{', '.join(parts)}"
        )
    for table in (_insertions(scores), _silence(scores)):
        if table.row_count:
            console.print(table)
    console.print(_seconds(stage_seconds()))
    console.print(
        "Artifacts: "
        + ", ".join(f"{path} ({what})" for path, what in ARTIFACTS.items() if Path(path).exists())
    )


def _holding(scores: Mapping[str, Any], key: str) -> Figures:
    """Set, system and figures of those that have one of that name."""
    return (
        (name, system, each)
        for name, systems in scores.items()
        for system, each in systems.items()
        if key in each
    )


def rate(own: Mapping[str, Any]) -> str:
    """A word error rate in percent, with its interval where there is one: ``2.72 (2.10–3.41)``."""
    ends = f" ({100 * own['wer_low']:.2f}–{100 * own['wer_high']:.2f})" if "wer_low" in own else ""
    return f"{100 * own['wer']:.2f}{ends}"


def _titled(title: str) -> Table:
    """An empty table whose names are never broken."""
    table = Table(title=title)
    for column in ("set", "system"):
        table.add_column(column, no_wrap=True)
    return table


def _words(scores: Mapping[str, Any]) -> Table:
    table = _titled("Word error rate (95 % interval) and character error rate")
    for column in ("WER %", "sub", "del", "ins", "words", "CER %", "text form"):
        table.add_column(column, justify="right")
    for name, system, each in _holding(scores, "wer"):
        counts = (str(each[key]) for key in ("substitutions", "deletions", "insertions", "words"))
        table.add_row(
            name,
            system,
            rate(each),
            *counts,
            f"{100 * each['cer']:.2f}" if "cer" in each else "",
            each["text_form"],
        )
    return table


def _insertions(scores: Mapping[str, Any]) -> Table:
    """Inserted words by kind, of the systems that inserted any."""
    table = _titled("Inserted words by kind")
    for column in KINDS:
        table.add_column(column, justify="right")
    for name, system, each in _holding(scores, "wer"):
        kinds = each.get("insertion_kinds", {})
        if any(kinds.values()):
            table.add_row(name, system, *(str(kinds[kind]) for kind in KINDS))
    return table


def _silence(scores: Mapping[str, Any]) -> Table:
    table = _titled("Text on non-speech, clips by its kind")
    for column in ("clips with text %", "clips", "characters a minute", *CLIP_KINDS):
        table.add_column(column, justify="right")
    for name, system, each in _holding(scores, "text_rate"):
        kinds = each.get("insertion_kinds", {})
        shown = f"{each['characters_a_minute']:.1f}" if "characters_a_minute" in each else ""
        table.add_row(
            name,
            system,
            f"{100 * each['text_rate']:.1f}",
            str(each["clips"]),
            shown,
            *(str(kinds.get(kind, "")) for kind in CLIP_KINDS),
        )
    return table


def stage_seconds() -> dict[str, float]:
    """Seconds of the latest run of each stage, in the order they ran, from ``runs/``."""
    latest: dict[str, tuple[str, float]] = {}
    for path in RUNS.glob("*/*.json"):
        record = json.loads(path.read_text())
        if record["started"] >= latest.get(record["stage"], ("", 0.0))[0]:
            latest[record["stage"]] = (record["started"], record["seconds"])
    return {
        stage: seconds
        for stage, (started, seconds) in sorted(latest.items(), key=lambda entry: entry[1][0])
    }


def _seconds(stages: dict[str, float]) -> Table:
    """Seconds by stage, the roles of a matrix stage added up."""
    sums: dict[str, float] = {}
    for stage, seconds in stages.items():
        name = stage.split("@")[0]
        sums[name] = sums.get(name, 0.0) + seconds
    table = Table("stage", title="Seconds a stage (latest run)")
    table.add_column("seconds", justify="right")
    for name, total in sums.items():
        table.add_row(name, f"{total:.1f}")
    table.add_row("all", f"{sum(sums.values()):.1f}")
    return table
