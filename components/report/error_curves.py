"""Charts of the word error rate: over conditions of the audio, and by duration of the utterances.

In: the scores, the corpus' entry in the catalogue, ``groups.csv``. Out: charts; without data there
is no chart.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.audio.condition import CONDITION_KINDS, condition_of
from components.report.charts import Axis, Chart, Point, Series, draw_chart
from components.report.experiment import Experiment
from components.report.training_curves import ERROR_RATE
from components.score.figures import Scores

Sources = Mapping[str, Mapping[str, Any]]  # settings of each set, from the catalogue


@dataclass(frozen=True)
class _RatePoint:
    """The figures of a set, by system, at a value of the x axis."""

    x: float
    set: str
    figures: Mapping[str, Any]


def draw_conditions(experiment: Experiment, sources: Sources) -> list[Chart]:
    """Word error rate over the values of each condition.

    The chart also has the set from which the altered sets were made, at the value that changes
    nothing: its rate over the same utterances.
    """
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name in experiment.scores:
        condition = condition_of(sources.get(name, {}))
        if condition:
            key = (condition.name, _as_json(sources[name].get("source")))
            groups.setdefault(key, []).append((condition.value, name))
    charts = []
    for index, ((condition_name, source), sets) in enumerate(sorted(groups.items())):
        kind = CONDITION_KINDS[condition_name]
        sets.sort()
        ticks = {value: f"{value:g}" for value, _ in sets}
        points = [_RatePoint(value, name, experiment.scores[name]) for value, name in sets]
        original = _original_set(sources[sets[0][1]], source, experiment.scores, sources)
        if original:
            values = [value for value, _ in sets]
            x = kind.neutral if kind.neutral is not None else _next_value(values)
            ticks[x] = "clean" if kind.neutral is None else f"{x:g}"
            figures = _same_utterances(experiment, original, sets[0][1])
            points.append(_RatePoint(x, original, figures))
            points.sort(key=lambda point: point.x)
        charts += _draw_rates(
            f"condition-{index}",
            f"Word error rate over {kind.title}{f' ({original})' if original else ''}",
            points,
            Axis(kind.axis_label, ticks=dict(sorted(ticks.items()))),
            experiment.systems,
        )
    return charts


def _next_value(values: Sequence[float]) -> float:
    """A value above the last one, by the mean step and at least by 5."""
    return values[-1] + max(5.0, (values[-1] - values[0]) / max(1, len(values) - 1))


def _original_set(
    settings: Mapping[str, Any], source: str, scores: Scores, sources: Sources
) -> str | None:
    """The set from which an altered one was made: the one that it names, or the one whose settings
    are those of its source.
    """
    if settings.get("name") in scores:
        return str(settings["name"])
    return next((name for name in scores if _as_json(sources.get(name)) == source), None)


def _same_utterances(
    experiment: Experiment, original: str, altered: str
) -> dict[str, dict[str, Any]]:
    """Figures by system of a set, over those of its utterances that an altered set has.

    The id of an altered utterance is ``<id>-<condition>``.
    """
    originals = {
        utterance.id: utterance for utterance in experiment.utterances if utterance.set == original
    }
    utterances = []
    for utterance in experiment.utterances:
        if utterance.set != altered:
            continue
        name = utterance.id
        while name and name not in originals:
            name = name.rpartition("-")[0]
        if name:
            utterances.append(originals[name])
    if len(utterances) in (0, len(originals)):
        return experiment.scores[original]
    words = max(1, sum(utterance.words for utterance in utterances))
    return {
        system: {
            "wer": sum(
                utterance.results[system].errors.errors
                for utterance in utterances
                if system in utterance.results
            )
            / words
        }
        for system, figures in experiment.scores[original].items()
        if "wer" in figures
    }


def _draw_rates(
    key: str, title: str, points: Sequence[_RatePoint], axis: Axis, systems: Sequence[str]
) -> list[Chart]:
    """A line for each system; no chart if no set has a word error rate."""
    lines = {
        system: [point for point in points if "wer" in point.figures.get(system, {})]
        for system in systems
    }
    lines = {system: line for system, line in lines.items() if line}
    if not lines:
        return []
    series = [
        Series(
            system,
            [_chart_point(point.x, point.figures[system]) for point in line],
            systems.index(system),
        )
        for system, line in lines.items()
    ]
    rows = [
        [
            axis.ticks.get(point.x, f"{point.x:g}"),
            point.set,
            system,
            f"{100 * point.figures[system]['wer']:.2f}",
        ]
        for system, line in lines.items()
        for point in line
    ]
    head = (axis.label, "set", "system", "WER %")
    return [draw_chart(key, title, series, axis, ERROR_RATE, head=head, rows=rows)]


def _chart_point(x: float, figures: Mapping[str, Any]) -> Point:
    low, high = (
        None if figures.get(key) is None else 100 * figures[key] for key in ("wer_low", "wer_high")
    )
    return Point(x, 100 * figures["wer"], low, high)


def draw_durations(
    groups: Sequence[Mapping[str, str]], systems: Sequence[str], exclude: Collection[str] = ()
) -> list[Chart]:
    """Word error rate by duration of the audio, a chart for each set, from the rows of
    ``groups.csv``; without the sets of ``exclude``.
    """
    sets: dict[str, list[Mapping[str, str]]] = {}
    for row in groups:
        if row["by"] == "duration" and row["set"] not in exclude and int(row["words"]):
            sets.setdefault(row["set"], []).append(row)
    return [
        _draw_set_durations(f"duration-{index}", name, rows, systems)
        for index, (name, rows) in enumerate(sorted(sets.items()))
    ]


def _draw_set_durations(
    key: str, name: str, rows: Sequence[Mapping[str, str]], systems: Sequence[str]
) -> Chart:
    labels = dict.fromkeys(row["group"] for row in rows)
    x_values = {label: float(index) for index, label in enumerate(labels)}
    series = [
        Series(
            system,
            [
                Point(
                    x_values[row["group"]],
                    100 * float(row["wer"]),
                    _percent(row.get("low")),
                    _percent(row.get("high")),
                )
                for row in rows
                if row["system"] == system
            ],
            style,
        )
        for style, system in enumerate(systems)
        if any(row["system"] == system for row in rows)
    ]
    return draw_chart(
        key,
        f"Word error rate by duration ({name})",
        series,
        Axis("duration of the audio, s", ticks={x: label for label, x in x_values.items()}),
        ERROR_RATE,
        head=("seconds", "system", "WER %", "words"),
        rows=[
            [row["group"], row["system"], f"{100 * float(row['wer']):.2f}", row["words"]]
            for row in rows
        ],
    )


def _percent(cell: str | None) -> float | None:
    return 100 * float(cell) if cell else None


def _as_json(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)
