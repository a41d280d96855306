"""``metrics/score.json`` (set → system → figures, rates as fractions) as rows of tables, and rows
as aligned text.
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


def word_errors(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of speech and system: word error rate in percent, with its interval where
    there is one, the counts behind it, and, where they are there, the kinds of inserted words and
    the character error rate in percent.
    """
    return [
        {
            "set": name,
            "system": system,
            "WER %": format_rate(own),
            **{short: own.get(long, "") for short, long in COUNTS.items()},
            **({"inserted": kinds(own)} if "insertion_kinds" in own else {}),
            **({"CER %": percent(own["cer"])} if "cer" in own else {}),
        }
        for name, systems in scores.items()
        for system, own in systems.items()
        if "wer" in own
    ]


def kinds(own: Mapping[str, Any]) -> str:
    """The kinds of inserted words, or of clips with text, that came up: ``3 loop, 1 other``."""
    return (
        ", ".join(f"{count} {kind}" for kind, count in own["insertion_kinds"].items() if count)
        or "none"
    )


def text_on_nonspeech(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of non-speech and system: the share of clips that were given any text, in
    percent, and, where they are there, characters a minute of audio and those clips by the kind of
    their text.
    """
    return [
        {
            "set": name,
            "system": system,
            "clips with text %": percent(own["text_rate"]),
            "clips": own.get("clips", ""),
            **(
                {"characters a minute": f"{own['characters_a_minute']:.1f}"}
                if "characters_a_minute" in own
                else {}
            ),
            **({"texts": kinds(own)} if "insertion_kinds" in own else {}),
        }
        for name, systems in scores.items()
        for system, own in systems.items()
        if "text_rate" in own
    ]


def perplexities(scores: Scores) -> dict[str, float]:
    """Perplexity of a word under the LLM alone, by set."""
    return {
        name: own["perplexity"]
        for name, systems in scores.items()
        for own in systems.values()
        if "perplexity" in own
    }


def spread(repeats: Sequence[Scores]) -> list[dict[str, str]]:
    """A row for each set and system of runs that differ in their seed alone: mean (least–most) of
    word error rate, insertions and clips with text, in percent of words and of clips.
    """
    rows = []
    for name, system in [
        (name, system) for name, systems in repeats[0].items() for system in systems
    ]:
        found = [scores[name][system] for scores in repeats]
        shares = {
            "WER %": [own["wer"] for own in found if "wer" in own],
            "insertions %": [own["insertions"] / own["words"] for own in found if own.get("words")],
            "clips with text %": [own["text_rate"] for own in found if "text_rate" in own],
        }
        ranges = {column: _range(values) for column, values in shares.items() if values}
        if ranges:
            rows.append({"seeds": str(len(found)), "set": name, "system": system, **ranges})
    return rows


def _range(fractions: Sequence[float]) -> str:
    return (
        f"{percent(sum(fractions) / len(fractions))} "
        f"({percent(min(fractions))}–{percent(max(fractions))})"
    )


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as text with aligned columns; the columns are those of all rows, in the order in which
    they come up.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )
