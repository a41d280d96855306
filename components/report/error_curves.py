"""The report's charts: training by step, word error rate by condition of the audio and by its
duration.

In: ``metrics/curve.csv`` and ``metrics/train.json``, the scores, the corpus' entry in the
catalogue, ``groups.csv``. Out: figures. What there is no data for has no chart.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.report.charts import Axis, Figure, Point, Series, figure
from components.report.experiment import Experiment, Scores

# Settings of a source of kind `altered`, exactly one of which it has: title, unit, and the value
# that leaves the audio as it was.
CONDITIONS: dict[str, tuple[str, str, float | None]] = {
    "snr_db": ("signal-to-noise ratio", "dB", None),
    "tempo": ("tempo", "", 1.0),
    "cut": ("share of the audio kept", "", 1.0),
    "around_seconds": ("noise before and after", "s", 0.0),
}
TRAINED = {
    "loss": ("Loss in training", Axis("cross-entropy, nats a token", least=0)),
    "accuracy": (
        "Accuracy of the next token in training",
        Axis("% of target tokens", least=0, most=100),
    ),
}
RATE = Axis("word error rate, %", least=0)


def condition_of(settings: Mapping[str, Any]) -> tuple[str, float] | None:
    """Name and value of the change that a source of kind ``altered`` makes; None for any other
    source.
    """
    if settings.get("kind") != "altered":
        return None
    return next(
        ((name, float(settings[name])) for name in CONDITIONS if settings.get(name) is not None),
        None,
    )


def condition_text(name: str, value: float) -> str:
    """A condition in words: ``signal-to-noise ratio 5 dB``."""
    return f"{CONDITIONS[name][0]} {value:g} {CONDITIONS[name][1]}".rstrip()


def training(curve: Path, summary: Path) -> list[Figure]:
    """Loss, accuracy of the next token and dev word error rate by optimiser step; the jump, and
    where stages begin, are marked.
    """
    with curve.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        return []
    steps = [int(row["step"]) for row in rows]
    stages = [
        (step, row["stage"])
        for step, row, before in zip(steps, rows, [None, *rows])
        if before and before["stage"] != row["stage"]
    ]
    jump = json.loads(summary.read_text())["jump"]["step"]
    jumps = [(jump, f"jump at {jump}")] if jump is not None else []
    few = [
        rows[number]
        for number in sorted({round(share * (len(rows) - 1) / 11) for share in range(12)})
    ]
    x = Axis("optimiser step", least=0, most=len(rows))
    figures = []
    for name, (title, axis) in TRAINED.items():
        factor = 100 if name == "accuracy" else 1
        points = [Point(step, factor * _number(row[name])) for step, row in zip(steps, rows)]
        if any(math.isfinite(point.y) for point in points):
            table = [
                [row["step"], row["stage"], f"{factor * _number(row[name]):.4g}"] for row in few
            ]
            figures.append(
                figure(
                    f"train-{name}",
                    title,
                    [Series(name, points)],
                    x,
                    axis,
                    head=("step", "stage", axis.label),
                    rows=table,
                    marks=jumps if name == "accuracy" and jumps else stages,
                )
            )
    return figures + _dev(rows, stages, x)


def _dev(
    rows: Sequence[Mapping[str, str]], stages: Sequence[tuple[float, str]], x: Axis
) -> list[Figure]:
    decoded = [
        (int(row["step"]) + 1, row["stage"], _number(row["dev_wer"]))
        for row in rows
        if row["dev_wer"]
    ]
    if not decoded:
        return []
    points = [Point(step, 100 * rate) for step, _, rate in decoded]
    table = [[str(step), stage, f"{100 * rate:.2f}"] for step, stage, rate in decoded]
    return [
        figure(
            "train-dev",
            "Word error rate on dev in training, greedy search",
            [Series("dev", points)],
            x,
            RATE,
            marks=stages,
            head=("step", "stage", RATE.label),
            rows=table,
        )
    ]


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def conditions(experiment: Experiment, sources: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Word error rate over each condition that sets stand under; ``sources`` are the settings of
    each set. What the sets were made of stands beside them, as the condition that changes nothing:
    its rate over the same utterances.
    """
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name in experiment.scores:
        found = condition_of(sources.get(name, {}))
        if found:
            groups.setdefault((found[0], _written(sources[name].get("source"))), []).append(
                (found[1], name)
            )
    figures = []
    for number, ((kind, source), sets) in enumerate(sorted(groups.items())):
        title, unit, plain = CONDITIONS[kind]
        label = f"{title}, {unit}" if unit else title
        sets.sort()
        ticks, rates = (
            {value: f"{value:g}" for value, _ in sets},
            [(value, name, experiment.scores[name]) for value, name in sets],
        )
        clean = _origin(sources[sets[0][1]], source, experiment.scores, sources)
        if clean:
            values = [value for value, _ in sets]
            place = (
                plain
                if plain is not None
                else values[-1] + max(5.0, (values[-1] - values[0]) / max(1, len(values) - 1))
            )
            ticks[place] = "clean" if plain is None else f"{place:g}"
            rates = sorted(
                [*rates, (place, clean, _same_utterances(experiment, clean, sets[0][1]))],
                key=lambda rate: rate[0],
            )
        figures += _over(
            f"condition-{number}",
            f"Word error rate over {title}{f' ({clean})' if clean else ''}",
            rates,
            Axis(label, ticks=dict(sorted(ticks.items()))),
            experiment.systems,
        )
    return figures


def _origin(
    settings: Mapping[str, Any],
    source: str,
    scores: Scores,
    sources: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """The set that an altered one was made of: the one it names, or whose settings are those of its
    source.
    """
    if settings.get("name") in scores:
        return str(settings["name"])
    return next((name for name in scores if _written(sources.get(name)) == source), None)


def _same_utterances(experiment: Experiment, clean: str, altered: str) -> dict[str, dict[str, Any]]:
    """Figures by system of a set over those of its utterances that an altered set has; an altered
    one's id is ``<id>-<condition>``.
    """
    own = {each.id: each for each in experiment.utterances if each.set == clean}
    kept = []
    for each in experiment.utterances:
        name = each.id
        while each.set == altered and name and name not in own:
            name = name.rpartition("-")[0]
        if each.set == altered and name:
            kept.append(own[name])
    if len(kept) in (0, len(own)):
        return experiment.scores[clean]
    words = max(1, sum(each.words for each in kept))
    return {
        system: {
            "wer": sum(each.said[system].errors for each in kept if system in each.said) / words
        }
        for system, figures in experiment.scores[clean].items()
        if "wer" in figures
    }


def _over(
    key: str,
    title: str,
    rates: Sequence[tuple[float, str, Mapping[str, Any]]],
    axis: Axis,
    systems: Sequence[str],
) -> list[Figure]:
    """A line for each system over (place, set, figures by system); no figure where no set has a
    word error rate.
    """
    lines = {
        system: [
            (place, name, own[system]) for place, name, own in rates if "wer" in own.get(system, {})
        ]
        for system in systems
    }
    lines = {system: line for system, line in lines.items() if line}
    if not lines:
        return []
    series = [
        Series(
            system,
            [
                Point(
                    place,
                    100 * own["wer"],
                    _percent(own.get("wer_low")),
                    _percent(own.get("wer_high")),
                )
                for place, _, own in line
            ],
            systems.index(system),
        )
        for system, line in lines.items()
    ]
    rows = [
        [axis.ticks.get(place, f"{place:g}"), name, system, f"{100 * own['wer']:.2f}"]
        for system, line in lines.items()
        for place, name, own in line
    ]
    return [
        figure(
            key, title, series, axis, RATE, head=(axis.label, "set", "system", "WER %"), rows=rows
        )
    ]


def durations(
    groups: Sequence[Mapping[str, str]], systems: Sequence[str], leave: Sequence[str] = ()
) -> list[Figure]:
    """Word error rate by duration of the audio, a chart a set, from the rows of ``groups.csv``;
    without the sets to ``leave`` out.
    """
    sets: dict[str, list[Mapping[str, str]]] = {}
    for row in groups:
        if row["by"] == "duration" and row["set"] not in leave and int(row["words"]):
            sets.setdefault(row["set"], []).append(row)
    figures = []
    for number, (name, rows) in enumerate(sorted(sets.items())):
        place = {
            group: float(column)
            for column, group in enumerate(dict.fromkeys(row["group"] for row in rows))
        }
        series = [
            Series(
                system,
                [
                    Point(
                        place[row["group"]],
                        100 * float(row["wer"]),
                        _cell(row, "low"),
                        _cell(row, "high"),
                    )
                    for row in rows
                    if row["system"] == system
                ],
                style,
            )
            for style, system in enumerate(systems)
            if any(row["system"] == system for row in rows)
        ]
        table = [
            [row["group"], row["system"], f"{100 * float(row['wer']):.2f}", row["words"]]
            for row in rows
        ]
        axis = Axis(
            "duration of the audio, s", ticks={value: group for group, value in place.items()}
        )
        figures.append(
            figure(
                f"duration-{number}",
                f"Word error rate by duration ({name})",
                series,
                axis,
                RATE,
                head=("seconds", "system", "WER %", "words"),
                rows=table,
            )
        )
    return figures


def _cell(row: Mapping[str, str], name: str) -> float | None:
    return 100 * float(row[name]) if row.get(name) else None


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _written(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)
