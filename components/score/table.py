"""The result table for the terminal: word error rates, text on non-speech, seconds a stage, where the artifacts lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.config.errors import InputError
from components.config.stage import RUNS
from components.score.build import METRICS

ARTIFACTS = {
    "models/bridge": "the trained bridge", "models/encoder": "encoder", "models/llm": "LLM", "data/decode": "hypotheses",
    "data/score/speakers.csv": "word error rate by speaker", "metrics/curve.csv": "training curve",
    "metrics/train.json": "where its accuracy jumps", "metrics/score.json": "these figures",
}  # fmt: skip


def show() -> None:
    """Prints the tables; raises InputError where nothing was scored yet."""
    if not METRICS.is_file():
        raise InputError(f"{METRICS} is not there.", way_out="Run 'dvc repro'.")
    scores = json.loads(METRICS.read_text())
    console = Console(width=None if Console().is_terminal else 100)
    console.print(_words({name: systems for name, systems in scores.items() if "wer" in next(iter(systems.values()))}))
    quiet = {name: systems for name, systems in scores.items() if "text_rate" in next(iter(systems.values()))}
    if quiet:
        console.print(_silence(quiet))
    console.print(_seconds(stage_seconds()))
    console.print("Artifacts: " + ", ".join(f"{path} ({what})" for path, what in ARTIFACTS.items() if Path(path).exists()))


def _words(scores: dict[str, Any]) -> Table:
    table = Table("set", "system", title="Word error rate")
    for column in ("WER %", "sub", "del", "ins", "words", "text form"):
        table.add_column(column, justify="right")
    for name, systems in scores.items():
        for system, each in systems.items():
            if "wer" not in each:  # the LLM alone
                continue
            counts = (str(each[key]) for key in ("substitutions", "deletions", "insertions", "words", "text_form"))
            table.add_row(name, system, f"{100 * each['wer']:.2f}", *counts)
    return table


def _silence(scores: dict[str, Any]) -> Table:
    table = Table("set", "system", title="Text on non-speech")
    for column in ("clips with text %", "clips"):
        table.add_column(column, justify="right")
    for name, systems in scores.items():
        for system, each in systems.items():
            table.add_row(name, system, f"{100 * each['text_rate']:.1f}", str(each["clips"]))
    return table


def stage_seconds() -> dict[str, float]:
    """Seconds of the latest run of each stage, in the order they ran, from ``runs/``."""
    latest: dict[str, tuple[str, float]] = {}
    for path in RUNS.glob("*/*.json"):
        record = json.loads(path.read_text())
        if record["started"] >= latest.get(record["stage"], ("", 0.0))[0]:
            latest[record["stage"]] = (record["started"], record["seconds"])
    return {stage: seconds for stage, (started, seconds) in sorted(latest.items(), key=lambda entry: entry[1][0])}


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
