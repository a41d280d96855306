"""``metrics/score.json`` (set → system → figures, rates as fractions) as rows of tables.

In: the file's content. Out: rows of text and counts by column. Cost: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.score.table import format_rate

SCORE = Path("metrics/score.json")
TRAIN = Path("metrics/train.json")
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
COUNTS = {"S": "substitutions", "D": "deletions", "I": "insertions", "words": "words"}


def list_word_errors(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of speech and system: word error rate in percent, with its interval if
    there is one, the counts behind it, and, if they are there, the kinds of inserted words, the
    character error rate in percent and the number of texts at the limit of their length.
    """
    return [
        {
            "set": name,
            "system": system,
            "WER %": format_rate(figures),
            **{short: figures.get(long, "") for short, long in COUNTS.items()},
            **({"inserted": format_kinds(figures)} if "insertion_kinds" in figures else {}),
            **({"CER %": format_percent(figures["cer"])} if "cer" in figures else {}),
            **({"at limit": figures["at_limit"]} if "at_limit" in figures else {}),
        }
        for name, systems in scores.items()
        for system, figures in systems.items()
        if "wer" in figures
    ]


def format_kinds(figures: Mapping[str, Any]) -> str:
    """The kinds of inserted words, or of clips with text, that occurred: ``3 loop, 1 other``."""
    counts = figures["insertion_kinds"].items()
    return ", ".join(f"{count} {kind}" for kind, count in counts if count) or "none"


def list_texts(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of non-speech and system: the share of clips with any text, in percent,
    and, if they are there, characters a minute of audio and those clips by the kind of their text.
    """
    rows = []
    for name, systems in scores.items():
        for system, figures in systems.items():
            if "text_rate" in figures:
                row = {
                    "set": name,
                    "system": system,
                    "clips with text %": format_percent(figures["text_rate"]),
                    "clips": figures.get("clips", ""),
                }
                if "characters_a_minute" in figures:
                    row["characters a minute"] = f"{figures['characters_a_minute']:.1f}"
                if "insertion_kinds" in figures:
                    row["texts"] = format_kinds(figures)
                rows.append(row)
    return rows


def list_perplexities(scores: Scores) -> dict[str, float]:
    """Perplexity of a word under the LLM alone, by set."""
    return {
        name: figures["perplexity"]
        for name, systems in scores.items()
        for figures in systems.values()
        if "perplexity" in figures
    }


def summarize_repeats(repeats: Sequence[Scores]) -> list[dict[str, str]]:
    """A row for each set and system of runs that differ in their seed alone: mean (least–most) of
    word error rate, insertions and clips with text, in percent of words and of clips.
    """
    rows = []
    for name, systems in repeats[0].items():
        for system in systems:
            figures = [scores[name][system] for scores in repeats]
            fractions = {
                "WER %": [item["wer"] for item in figures if "wer" in item],
                "insertions %": [
                    item["insertions"] / item["words"] for item in figures if item.get("words")
                ],
                "clips with text %": [item["text_rate"] for item in figures if "text_rate" in item],
            }
            ranges = {
                column: _format_range(values) for column, values in fractions.items() if values
            }
            if ranges:
                row = {"seeds": str(len(figures)), "set": name, "system": system}
                rows.append(row | ranges)
    return rows


def _format_range(fractions: Sequence[float]) -> str:
    return (
        f"{format_percent(sum(fractions) / len(fractions))} "
        f"({format_percent(min(fractions))}–{format_percent(max(fractions))})"
    )


def format_percent(fraction: float) -> str:
    """A fraction in percent with two digits."""
    return f"{100 * fraction:.2f}"
