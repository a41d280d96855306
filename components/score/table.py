"""Result tables for the terminal: error rates with intervals, inserted words by kind, text on
non-speech, seconds of each stage, and where the artifacts are.

In: ``metrics/score.json`` and ``runs/``. Out: tables on standard output. Cost: milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.config.errors import InputError
from components.runtime.stage import RUNS, read_run
from components.score.build import METRICS
from components.score.figures import read_scores
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
    "metrics/train.json": "training step at which the accuracy jumps",
    "metrics/score.json": "these figures",
}
WIDTH = 110  # columns, if the output is not a terminal
COUNTS = ("substitutions", "deletions", "insertions", "words")
Figures = Iterator[tuple[str, str, Mapping[str, Any]]]


def print_tables() -> None:
    """Prints all tables; raises InputError if nothing was scored yet."""
    if not METRICS.is_file():
        raise InputError(f"{METRICS} is missing.", subject=str(METRICS), hint="Run 'dvc repro'.")
    scores = read_scores(METRICS)
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(_word_errors(scores))
    incomplete = [
        name
        for name, systems in scores.items()
        if any(figures.get("words_checked") is False for figures in systems.values())
    ]
    if incomplete:
        console.print(
            "Part of a published set only, not comparable with published rates: "
            f"{', '.join(incomplete)}"
        )
    for warning in limit_warnings(scores):
        console.print(warning)
    for table in (_insertion_kinds(scores), _nonspeech(scores)):
        if table.row_count:
            console.print(table)
    console.print(_seconds(stage_seconds()))
    artifacts = (f"{path} ({label})" for path, label in ARTIFACTS.items() if Path(path).exists())
    console.print("Artifacts: " + ", ".join(artifacts))


def limit_warnings(scores: Mapping[str, Any]) -> list[str]:
    """A sentence for each set and system with hypotheses that met the limit of their length."""
    return [
        f"{name}, {system}: {figures['at_limit']} texts met the limit of tokens and may be cut "
        f"off: raise decode.sets.{system}.max_tokens or max_tokens_per_second."
        for name, system, figures in _with_figure(scores, "at_limit")
        if figures["at_limit"]
    ]


def _with_figure(scores: Mapping[str, Any], key: str) -> Figures:
    """Set, system and figures, where the figures have that key."""
    return (
        (name, system, figures)
        for name, systems in scores.items()
        for system, figures in systems.items()
        if key in figures
    )


def format_rate(figures: Mapping[str, Any]) -> str:
    """A word error rate in percent, with its interval if there is one.

    >>> format_rate({"wer": 0.0272, "wer_low": 0.021, "wer_high": 0.0341})
    '2.72 (2.10–3.41)'
    """
    interval = (
        f" ({100 * figures['wer_low']:.2f}–{100 * figures['wer_high']:.2f})"
        if "wer_low" in figures
        else ""
    )
    return f"{100 * figures['wer']:.2f}{interval}"


def _empty_table(title: str) -> Table:
    """A table whose columns for set and system never break a name."""
    table = Table(title=title)
    for column in ("set", "system"):
        table.add_column(column, no_wrap=True)
    return table


def _word_errors(scores: Mapping[str, Any]) -> Table:
    table = _empty_table("Word error rate (95 % interval) and character error rate")
    for column in ("WER %", "sub", "del", "ins", "words", "CER %", "at limit", "text form"):
        table.add_column(column, justify="right")
    for name, system, figures in _with_figure(scores, "wer"):
        table.add_row(
            name,
            system,
            format_rate(figures),
            *(str(figures.get(key, "")) for key in COUNTS),
            f"{100 * figures['cer']:.2f}" if "cer" in figures else "",
            str(figures.get("at_limit", "")),
            figures.get("text_form", ""),
        )
    return table


def _insertion_kinds(scores: Mapping[str, Any]) -> Table:
    """Inserted words by kind, of the systems that inserted any."""
    table = _empty_table("Inserted words by kind")
    for column in KINDS:
        table.add_column(column, justify="right")
    for name, system, figures in _with_figure(scores, "wer"):
        kinds = figures.get("insertion_kinds", {})
        if any(kinds.values()):
            table.add_row(name, system, *(str(kinds[kind]) for kind in KINDS))
    return table


def _nonspeech(scores: Mapping[str, Any]) -> Table:
    table = _empty_table("Text on non-speech, clips by kind of their text")
    for column in ("clips with text %", "clips", "characters a minute", *CLIP_KINDS):
        table.add_column(column, justify="right")
    for name, system, figures in _with_figure(scores, "text_rate"):
        kinds = figures.get("insertion_kinds", {})
        has_rate = "characters_a_minute" in figures
        table.add_row(
            name,
            system,
            f"{100 * figures['text_rate']:.1f}",
            str(figures.get("clips", "")),
            f"{figures['characters_a_minute']:.1f}" if has_rate else "",
            *(str(kinds.get(kind, "")) for kind in CLIP_KINDS),
        )
    return table


def stage_seconds() -> dict[str, float]:
    """Seconds of the latest run of each stage, from ``runs/``, in the order of their start."""
    latest: dict[str, tuple[str, float]] = {}
    for path in RUNS.glob("*/*.json"):
        record = read_run(path)
        if record["started"] >= latest.get(record["stage"], ("", 0.0))[0]:
            latest[record["stage"]] = (record["started"], record["seconds"])
    return {
        stage: seconds
        for stage, (started, seconds) in sorted(latest.items(), key=lambda item: item[1][0])
    }


def _seconds(stages: Mapping[str, float]) -> Table:
    """Seconds by stage; the roles of a matrix stage are added up."""
    sums: dict[str, float] = {}
    for stage, seconds in stages.items():
        name = stage.split("@")[0]
        sums[name] = sums.get(name, 0.0) + seconds
    table = Table("stage", title="Seconds of each stage (latest run)")
    table.add_column("seconds", justify="right")
    for name, total in sums.items():
        table.add_row(name, f"{total:.1f}")
    table.add_row("all", f"{sum(sums.values()):.1f}")
    return table
