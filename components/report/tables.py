"""The report's tables: word error rates with intervals, text forms, kinds of insertions, text on
non-speech, comparison of runs.

In: scores (set → system → figures, rates as fractions). Out: rows of plain text for the page, rates
in percent. A missing figure is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from components.report.charts import draw_interval
from components.report.experiment import Experiment
from components.score.figures import Scores
from components.text.forms import FORMS
from components.text.hypothesis import CTC

Figures = Mapping[str, Any]
COUNTS = ("substitutions", "deletions", "insertions", "words")
MAX_VERDICTS = 6  # sentences above the tables
MAX_SPEAKERS = 100  # rows; a corpus may have thousands of speakers, each with every system
# Minimum of each level of the heat maps: insertions per 100 words, and percent of clips with text.
LEVELS = {"insertions": (0.0, 1e-9, 0.1, 0.3, 1.0, 3.0), "text": (0.0, 1e-9, 1.0, 5.0, 20.0, 50.0)}


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map: its number as text, its level from 0 to 5, and a link to its utterances
    in the error browser.
    """

    text: str
    level: int
    link: str


@dataclass(frozen=True)
class HeatMap:
    """A heat map: a row for each set (name, condition, cells), a column for each system; None if a
    system has no figure.
    """

    title: str
    systems: list[str]
    rows: list[tuple[str, str, list[HeatCell | None]]]


def browser_link(name: str, system: str, kind: str = "") -> str:
    """The address of the error browser with filters for a set, a system and a kind of error.

    >>> browser_link("test-clean", "free", "loop")
    '#errors?set=test-clean&first=free&kind=loop'
    """
    filters = {"set": name, "first": system, **({"kind": kind} if kind else {})}
    return "#errors?" + urlencode(filters)


def word_error_rows(scores: Scores) -> list[dict[str, Any]]:
    """A row for each set of speech and system.

    ``rowspan`` is the number of a set's rows in its first row, and 0 in the others.
    """
    entries = _with_figure(scores, "wer")
    sets = [name for name, _, _ in entries]
    maximum = max((figures.get("wer_high", figures["wer"]) for _, _, figures in entries), default=0)
    rows = []
    for index, (name, system, figures) in enumerate(entries):
        is_repeated = index > 0 and sets[index - 1] == name
        bounds = _bounds(figures)
        rows.append(
            {
                "set": name,
                "rowspan": 0 if is_repeated else sets.count(name),
                "system": system,
                "wer": percent(figures["wer"]),
                "interval": _interval(figures),
                "by": figures.get("interval_by", ""),
                "maximum": percent(maximum),  # the right end of all pictures
                "picture": draw_interval(figures["wer"], *bounds, maximum) if bounds else "",
                "counts": [_count(figures, key) for key in COUNTS],
                "cer": percent(figures.get("cer")),
                "at_limit": figures.get("at_limit") or "",
                "form": figures.get("text_form", ""),
                "link": browser_link(name, system),
            }
        )
    return rows


def verdict_lines(scores: Scores) -> list[str]:
    """A sentence for each of the first ``MAX_VERDICTS`` sets: of speech the system with the fewest
    errors, beside the encoder's own CTC, of non-speech who writes least and most.
    """
    lines = []
    for name, systems in list(scores.items())[:MAX_VERDICTS]:
        rates = {
            system: figures["wer"] if "wer" in figures else figures["text_rate"]
            for system, figures in systems.items()
            if "wer" in figures or "text_rate" in figures
        }
        if not rates:
            continue
        best = min(rates, key=lambda system: rates[system])
        worst = max(rates, key=lambda system: rates[system])
        figures = systems[best]
        if "wer" in figures:
            interval = _interval(figures)
            interval_text = f" (95 % interval {interval})" if interval else ""
            own = CTC in rates and best != CTC
            baseline_text = f"; the encoder's own CTC has {percent(rates[CTC])} %" if own else ""
            lines.append(
                f"{name}: {best} has the fewest errors, {percent(rates[best])} % of "
                f"{figures.get('words', 0):,} words"
                f"{interval_text}{baseline_text}."
            )
        else:
            spread = (
                f"{percent(rates[best])} % ({best}) to {percent(rates[worst])} % ({worst})"
                if rates[best] < rates[worst]
                else f"{percent(rates[best])} % in all systems"
            )
            lines.append(f"{name}, without speech: clips with text {spread}.")
    return lines


def _with_figure(scores: Scores, key: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Set, system and figures, where the figures have that key."""
    return [
        (name, system, figures)
        for name, systems in scores.items()
        for system, figures in systems.items()
        if key in figures
    ]


def _bounds(figures: Figures) -> tuple[float, float] | None:
    low, high = figures.get("wer_low"), figures.get("wer_high")
    return None if low is None or high is None else (low, high)


def _interval(figures: Figures) -> str:
    bounds = _bounds(figures)
    return f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else ""


def form_rows(scores: Scores) -> list[list[str]]:
    """Set, system, word error rate in each text form."""
    return [
        [name, system, *(percent(figures["forms"].get(form)) for form in FORMS)]
        for name, system, figures in _with_figure(scores, "forms")
    ]


def kind_rows(scores: Scores, kinds: Sequence[str], figure: str) -> list[list[str]]:
    """Set, system and the number of insertions of each kind, where the figures have the key
    ``figure``.
    """
    return [
        [name, system, *(str(figures["insertion_kinds"].get(kind, 0)) for kind in kinds)]
        for name, system, figures in _with_figure(scores, "insertion_kinds")
        if figure in figures
    ]


def nonspeech_rows(scores: Scores) -> list[list[str]]:
    """Set, system, percent of clips with text, clips, characters a minute, of sets
    without speech.
    """
    return [
        [
            name,
            system,
            percent(figures["text_rate"]),
            _count(figures, "clips"),
            _decimal(figures.get("characters_a_minute")),
        ]
        for name, system, figures in _with_figure(scores, "text_rate")
    ]


def perplexity_rows(scores: Scores) -> list[list[str]]:
    """Set, perplexity of a word under the LLM alone, words; with the label of the run before the
    perplexity if systems have one.
    """
    return [
        [
            name,
            *filter(None, system.rpartition("/")[:1]),
            _decimal(figures["perplexity"]),
            _count(figures, "words"),
        ]
        for name, system, figures in _with_figure(scores, "perplexity")
    ]


def heat_maps(scores: Scores, conditions: Mapping[str, str]) -> list[HeatMap]:
    """Insertions per 100 reference words, and the share of clips with text on non-speech, by set
    and system; ``conditions`` has the text beside a set's name.
    """
    maps = []
    for key, figure, title in (
        ("insertions", "insertions", "Insertions per 100 words of the reference"),
        ("text", "text_rate", "Text on audio without speech, % of clips"),
    ):
        entries = _with_figure(scores, figure)
        systems = list(dict.fromkeys(system for _, system, _ in entries))
        rows = []
        for name in dict.fromkeys(name for name, _, _ in entries):
            by_system = {system: figures for entry, system, figures in entries if entry == name}
            cells = [
                _heat_cell(key, name, system, by_system[system]) if system in by_system else None
                for system in systems
            ]
            rows.append((name, conditions.get(name, ""), cells))
        if rows:
            maps.append(HeatMap(title, systems, rows))
    return maps


def _heat_cell(key: str, name: str, system: str, figures: Figures) -> HeatCell:
    if key == "text":
        value = 100 * figures["text_rate"]
    else:
        value = 100 * (figures["insertions"] / max(1, figures.get("words", 1)))
    level = max(index for index, minimum in enumerate(LEVELS[key]) if value >= minimum)
    kind = "text" if key == "text" else "insertion"
    return HeatCell(f"{value:.2f}", level, browser_link(name, system, kind))


def language_rows(groups: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Set, system, language, word error rate, interval, words, from the rows of ``groups.csv``."""
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
        for row in groups
        if row["by"] == "language"
    ]


def speaker_rows(speakers: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Set, system, speaker, word error rate, words, from the rows of ``speakers.csv``: the
    ``MAX_SPEAKERS`` with the highest rates.
    """
    ranked = sorted(speakers, key=lambda row: -float(row["wer"]))[:MAX_SPEAKERS]
    return [
        [row["set"], row["system"], row["speaker"], percent(_fraction(row["wer"])), row["words"]]
        for row in ranked
    ]


def compare_rates(experiments: Sequence[Experiment]) -> list[list[str]]:
    """Set, system, name of the rate, the rate of each run, and its difference to the first run in
    percentage points.

    The rate is the word error rate with its interval, or for non-speech the share of clips with
    text. There are rows for the sets and systems of all runs; a run that lacks one has empty cells.
    """
    entries = dict.fromkeys(
        (name, system)
        for experiment in experiments
        for name, systems in experiment.scores.items()
        for system in systems
    )
    rows = []
    for name, system in entries:
        figures = [experiment.scores.get(name, {}).get(system, {}) for experiment in experiments]
        key = next(
            (key for key in ("wer", "text_rate") if any(key in run for run in figures)), None
        )
        if key is not None:
            label = "WER" if key == "wer" else "clips with text"
            rows.append([name, system, label, *_compare_runs(figures, key)])
    return rows


def _compare_runs(runs: Sequence[Figures], key: str) -> list[str]:
    rates = [
        percent(run.get(key))
        + (f" ({_interval(run)})" if key == "wer" and key in run and _bounds(run) else "")
        for run in runs
    ]
    first = runs[0]
    differences = [
        f"{100 * (run[key] - first[key]):+.2f}" if key in run and key in first else ""
        for run in runs[1:]
    ]
    return [*rates, *differences]


def percent(fraction: float | None) -> str:
    """A fraction as percent with two decimals; empty if there is none."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _fraction(cell: str) -> float | None:
    return float(cell) if cell else None


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(figures: Figures, key: str) -> str:
    return str(figures.get(key, ""))
