"""The data of the error browser: utterances by damage, with what each system made of them and how
it aligns.

In: experiments (one for the stage, several to compare). Out: plain data for the page (JSON). Cost:
jiwer's alignment, about a second for 20,000 hypotheses; and about 400 bytes of page for each
hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.config.errors import InputError, nearest
from components.report.alignment import operations
from components.report.experiment import Experiment, Key, Utterance
from components.text.forms import FORMS, normalise


@dataclass(frozen=True)
class Browsed:
    """Utterances in the order of their damage, at most as many as the page shall hold; ``total`` is
    how many there were.
    """

    utterances: list[Utterance]
    systems: list[str]
    total: int
    form: str


def browsed(experiments: Sequence[Experiment], most: int) -> Browsed:
    """The ``most`` utterances with most errors of all systems; a system of a labelled experiment is
    called ``label/system``.

    Raises InputError where experiments compared words in different forms, or mean different
    utterances by one name.
    """
    form, systems = experiments[0].form, list[str]()
    merged: dict[Key, Utterance] = {}
    for experiment in experiments:
        if experiment.form != form:
            raise InputError(
                f"'{experiments[0].label}' was scored in the form {form}, '{experiment.label}' "
                f"in {experiment.form}.",
                subject="score.text_form",
                hint="Score both in one form.",
            )
        systems += [_named(experiment, system) for system in experiment.systems]
        for each in experiment.utterances:
            _add(merged, each, experiment)
    if form not in FORMS:
        raise InputError(
            f"No text form is called '{form}'.",
            subject="score.text_form",
            hint=nearest(form, FORMS),
        )
    ranked = sorted(merged.values(), key=lambda each: (-each.damage, each.set, each.id))
    return Browsed(ranked[:most], systems, len(ranked), form)


def _named(experiment: Experiment, system: str) -> str:
    return f"{experiment.label}/{system}" if experiment.label else system


def _add(merged: dict[Key, Utterance], each: Utterance, experiment: Experiment) -> None:
    there = merged.setdefault(each.key, replace(each, said={}))
    if there.reference != each.reference:
        raise InputError(
            f"Utterance '{each.id}' of {each.set} has another reference in '{experiment.label}'.",
            subject=each.id,
            hint="Compare runs on the same test sets.",
        )
    there.said.update({_named(experiment, system): said for system, said in each.said.items()})


def payload(shown: Browsed, clips: Sequence[Key]) -> dict[str, Any]:
    """What the page's script reads. An utterance is a list: set, id, speaker, language, seconds,
    reference, reference as compared (0: as it stands), number of its clip (-1: none), and by system
    0 (silent about it) or a list: text, text as compared (0), operations, substitutions, deletions,
    insertions, kind, n-best.
    """
    sets = sorted({(each.set, each.speech) for each in shown.utterances})
    place = {name: number for number, (name, _) in enumerate(sets)}
    clip = {key: number for number, key in enumerate(clips)}
    pairs = [
        (normalise(each.reference, shown.form), normalise(said.hypothesis.text, shown.form))
        for each in shown.utterances
        for said in each.said.values()
    ]
    aligned = iter(
        zip(pairs, operations([left for left, _ in pairs], [right for _, right in pairs]))
    )
    rows = []
    for each in shown.utterances:
        made: dict[str, list[Any]] = {}
        for system, said in each.said.items():
            (_, compared), letters = next(aligned)
            made[system] = [
                said.hypothesis.text,
                _unless_plain(compared, said.hypothesis.text),
                letters,
                said.substitutions,
                said.deletions,
                said.insertions,
                said.kind,
                [
                    (alternative.text, _finite(alternative.score))
                    for alternative in said.hypothesis.alternatives
                ],
            ]
        rows.append(
            [
                place[each.set],
                each.id,
                each.speaker,
                each.language,
                round(each.seconds, 2),
                each.reference,
                _unless_plain(normalise(each.reference, shown.form), each.reference),
                clip.get(each.key, -1),
                [made.get(system, 0) for system in shown.systems],
            ]
        )
    return {
        "sets": [name for name, _ in sets],
        "speech": [speech for _, speech in sets],
        "systems": shown.systems,
        "utterances": rows,
    }


def _unless_plain(compared: str, text: str) -> str | int:
    """``compared``; 0 where it is ``text`` to the letter, which the page then takes. Words of it
    stand one space apart.
    """
    return 0 if compared == text else compared


def _finite(score: float | None) -> float | None:
    return round(score, 4) if score is not None and math.isfinite(score) else None
