"""The report's tables: word error rates with intervals, text forms, kinds of insertions, text on
non-speech, comparison of runs.

In: scores (set → system → figures, rates as fractions). Out: rows as plain text for the page, rates
in percent. A figure that is not there is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from components.report.charts import whisker
from components.report.experiment import Experiment, Scores

FORMS = ("as-is", "casefold", "whisper")
SPEAKERS = 100  # a corpus may have thousands, each under every system
KINDS = ("loop", "echo", "refusal", "run-on", "other")
QUIET_KINDS = ("loop", "echo", "refusal", "text")
# Least value of each level of the heat maps: insertions for 100 words, and percent of clips with
# text.
LEVELS = {"insertions": (0.0, 1e-9, 0.5, 1.0, 2.0, 5.0), "text": (0.0, 1e-9, 1.0, 5.0, 20.0, 50.0)}


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map: its number as text, a level from 0 to 5, and where the error browser
    shows what is behind it.
    """

    text: str
    level: int
    link: str


@dataclass(frozen=True)
class Heat:
    """A heat map: rows of sets (with their condition), a column a system; None where a system has
    no figure.
    """

    title: str
    systems: list[str]
    rows: list[tuple[str, str, list[Cell | None]]]


def link(name: str, system: str, kind: str = "") -> str:
    """Address of the error browser with its filters set."""
    return "#errors?" + urlencode(
        {"set": name, "first": system, **({"kind": kind} if kind else {})}
    )


def words(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of speech and system; ``first`` is the number of a set's rows in its
    first, and 0 in the others.
    """
    found = _with(scores, "wer")
    sets = [name for name, _, _ in found]
    most = max((own.get("wer_high", own["wer"]) for _, _, own in found), default=0.0)
    return [
        {
            "set": name,
            "first": 0 if number and sets[number - 1] == name else sets.count(name),
            "system": system,
            "wer": percent(own["wer"]),
            "interval": _interval(own),
            "by": own.get("interval_by", ""),
            "picture": _picture(own, most),
            "counts": [
                _count(own, key) for key in ("substitutions", "deletions", "insertions", "words")
            ],
            "cer": percent(own.get("cer")),
            "form": own.get("text_form", ""),
            "link": link(name, system),
        }
        for number, (name, system, own) in enumerate(found)
    ]


def _with(scores: Scores, key: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (name, system, own)
        for name, systems in scores.items()
        for system, own in systems.items()
        if key in own
    ]


def _interval(own: Mapping[str, Any]) -> str:
    return f"{percent(own['wer_low'])} to {percent(own['wer_high'])}" if _bounded(own) else ""


def _picture(own: Mapping[str, Any], most: float) -> Markup | str:
    return whisker(own["wer"], own["wer_low"], own["wer_high"], most) if _bounded(own) else ""


def _bounded(own: Mapping[str, Any]) -> bool:
    return own.get("wer_low") is not None and own.get("wer_high") is not None


def forms(scores: Scores) -> list[list[str]]:
    """Set, system, word error rate in each text form."""
    return [
        [name, system, *(percent(own["forms"].get(form)) for form in FORMS)]
        for name, system, own in _with(scores, "forms")
    ]


def kinds(scores: Scores, of: Sequence[str], beside: str) -> list[list[str]]:
    """Set, system and the number of each kind of insertion, of the sets whose figures have
    ``beside``.
    """
    return [
        [name, system, *(str(own["insertion_kinds"].get(kind, 0)) for kind in of)]
        for name, system, own in _with(scores, "insertion_kinds")
        if beside in own
    ]


def quiet(scores: Scores) -> list[list[str]]:
    """Set, system, percent of clips with text, clips, characters a minute, of sets
    without speech.
    """
    return [
        [
            name,
            system,
            percent(own["text_rate"]),
            _count(own, "clips"),
            _decimal(own.get("characters_a_minute")),
        ]
        for name, system, own in _with(scores, "text_rate")
    ]


def perplexities(scores: Scores) -> list[list[str]]:
    """Set, perplexity of a word under the LLM alone, words; before the perplexity the run's label
    where systems have one.
    """
    return [
        [
            name,
            *filter(None, system.rpartition("/")[:1]),
            _decimal(own["perplexity"]),
            _count(own, "words"),
        ]
        for name, system, own in _with(scores, "perplexity")
    ]


def heat(scores: Scores, conditions: Mapping[str, str]) -> list[Heat]:
    """Insertions for 100 reference words, and the share of clips with text on non-speech, by set
    and system.
    """
    maps = []
    for key, figure, title in (
        ("insertions", "insertions", "Insertions for 100 words of the reference"),
        ("text", "text_rate", "Text on audio without speech, % of clips"),
    ):
        found = _with(scores, figure)
        systems = list(dict.fromkeys(system for _, system, _ in found))
        rows = []
        for name in dict.fromkeys(name for name, _, _ in found):
            own = {system: figures for other, system, figures in found if other == name}
            cells = [
                _cell(key, name, system, own[system]) if system in own else None
                for system in systems
            ]
            rows.append((name, conditions.get(name, ""), cells))
        if rows:
            maps.append(Heat(title, systems, rows))
    return maps


def _cell(key: str, name: str, system: str, own: Mapping[str, Any]) -> Cell:
    value = 100 * (
        own["text_rate"] if key == "text" else own["insertions"] / max(1, own.get("words", 1))
    )
    level = max(number for number, least in enumerate(LEVELS[key]) if value >= least)
    return Cell(f"{value:.2f}", level, link(name, system, "text" if key == "text" else "insertion"))


def groups(rows: Sequence[Mapping[str, str]], by: str) -> list[list[str]]:
    """Set, system, group, word error rate, interval, words, of the rows of ``groups.csv`` by
    language or duration.
    """
    return [
        [
            row["set"],
            row["system"],
            row["group"],
            percent(_fraction(row["wer"])),
            f"{percent(_fraction(row['low']))} to {percent(_fraction(row['high']))}"
            if row.get("low")
            else "",
            row["words"],
        ]
        for row in rows
        if row["by"] == by
    ]


def speakers(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Set, system, speaker, word error rate, words, of the rows of ``speakers.csv``: the
    ``SPEAKERS`` with the highest rates.
    """
    ranked = sorted(rows, key=lambda row: -float(row["wer"]))[:SPEAKERS]
    return [
        [row["set"], row["system"], row["speaker"], percent(_fraction(row["wer"])), row["words"]]
        for row in ranked
    ]


def side_by_side(experiments: Sequence[Experiment]) -> list[list[str]]:
    """Set, system, word error rate of each run with its interval, and its difference to the first,
    in points; for non-speech the share of clips with text. Sets and systems of any run; a run that
    lacks one has empty cells.
    """
    rows = []
    places = dict.fromkeys(
        (name, system)
        for each in experiments
        for name, systems in each.scores.items()
        for system in systems
    )
    for name, system in places:
        found = [each.scores.get(name, {}).get(system, {}) for each in experiments]
        key = next((key for key in ("wer", "text_rate") if any(key in own for own in found)), None)
        if key is None:
            continue
        cells = []
        for own in found:
            cells.append(
                percent(own.get(key))
                + (
                    f" ({_interval(own)})"
                    if key == "wer" and _bounded(own) and "wer" in own
                    else ""
                )
            )
        for own in found[1:]:
            known = key in own and key in found[0]
            cells.append(f"{100 * (own[key] - found[0][key]):+.2f}" if known else "")
        rows.append([name, system, "WER" if key == "wer" else "clips with text", *cells])
    return rows


def percent(fraction: float | None) -> str:
    """A fraction as percent with two decimals; empty where there is none."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _fraction(cell: str) -> float | None:
    return float(cell) if cell else None


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(own: Mapping[str, Any], key: str) -> str:
    return str(own.get(key, ""))
