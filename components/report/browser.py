"""The data of the error browser: utterances with most errors first, each with the hypotheses of all
systems and their alignment.

In: experiments (one for the stage, several to compare). Out: plain data for the page (JSON). Cost:
the alignment, about a second for 20,000 hypotheses, and about 400 bytes of page for each
hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.config.errors import InputError, nearest
from components.report.alignment import edit_operations
from components.report.experiment import (
    Experiment,
    ScoredHypothesis,
    ScoredUtterance,
    UtteranceKey,
)
from components.text.forms import FORMS, normalise


@dataclass(frozen=True)
class RankedUtterances:
    """The utterances with most errors first, at most as many as the page may have."""

    utterances: list[ScoredUtterance]
    systems: list[str]
    total: int  # utterances before the limit
    form: str  # text form in which words were compared


def rank_utterances(experiments: Sequence[Experiment], max_utterances: int) -> RankedUtterances:
    """The ``max_utterances`` utterances with most errors of all systems together.

    A system of a labelled experiment is called ``label/system``. Raises InputError if experiments
    compared words in different text forms, or if one id means different utterances.
    """
    form, systems = experiments[0].form, list[str]()
    merged: dict[UtteranceKey, ScoredUtterance] = {}
    for experiment in experiments:
        if experiment.form != form:
            raise InputError(
                f"'{experiments[0].label}' was scored in the form {form}, '{experiment.label}' "
                f"in {experiment.form}.",
                subject="score.text_form",
                hint="Score both in one form.",
            )
        systems += [_system_name(experiment, system) for system in experiment.systems]
        for utterance in experiment.utterances:
            _merge(merged, utterance, experiment)
    if form not in FORMS:
        raise InputError(
            f"No text form is called '{form}'.",
            subject="score.text_form",
            hint=nearest(form, FORMS),
        )
    ranked = sorted(
        merged.values(),
        key=lambda utterance: (-utterance.num_errors, utterance.set, utterance.id),
    )
    return RankedUtterances(ranked[:max_utterances], systems, len(ranked), form)


def _system_name(experiment: Experiment, system: str) -> str:
    return f"{experiment.label}/{system}" if experiment.label else system


def _merge(
    merged: dict[UtteranceKey, ScoredUtterance],
    utterance: ScoredUtterance,
    experiment: Experiment,
) -> None:
    """Adds the results of an utterance of ``experiment``."""
    target = merged.setdefault(utterance.key, replace(utterance, results={}))
    if target.reference != utterance.reference:
        raise InputError(
            f"Utterance '{utterance.id}' of {utterance.set} has another reference in "
            f"'{experiment.label}'.",
            subject=utterance.id,
            hint="Compare runs on the same test sets.",
        )
    for system, result in utterance.results.items():
        target.results[_system_name(experiment, system)] = result


def browser_data(ranked: RankedUtterances, clips: Sequence[UtteranceKey]) -> dict[str, Any]:
    """The data for the page's script.

    An utterance is a list: index of its set, id, speaker, language, seconds, reference, reference
    in the text form (0 if it is the same text), index of its clip (-1 for none), and for each
    system the list of ``_result_row`` (0 if the system has no hypothesis).
    """
    sets = sorted({(utterance.set, utterance.is_speech) for utterance in ranked.utterances})
    set_indices = {name: index for index, (name, _) in enumerate(sets)}
    clip_indices = {key: index for index, key in enumerate(clips)}
    operations = _align(ranked)
    rows = []
    for utterance in ranked.utterances:
        results = {
            system: _result_row(result, ranked.form, utterance.language, next(operations))
            for system, result in utterance.results.items()
        }
        rows.append(
            [
                set_indices[utterance.set],
                utterance.id,
                utterance.speaker,
                utterance.language,
                round(utterance.duration_s, 2),
                utterance.reference,
                _in_form_if_different(utterance.reference, ranked.form, utterance.language),
                clip_indices.get(utterance.key, -1),
                [results.get(system, 0) for system in ranked.systems],
            ]
        )
    return {
        "sets": [name for name, _ in sets],
        "speech": [is_speech for _, is_speech in sets],
        "systems": ranked.systems,
        "utterances": rows,
    }


def _align(ranked: RankedUtterances) -> Iterator[str]:
    """The edit operations of every result, in the order of utterances and systems."""
    references, hypotheses = [], []
    for utterance in ranked.utterances:
        language = utterance.language
        reference = normalise(utterance.reference, ranked.form, language)
        for result in utterance.results.values():
            references.append(reference)
            hypotheses.append(normalise(result.hypothesis.text, ranked.form, language))
    return iter(edit_operations(references, hypotheses))


def _result_row(result: ScoredHypothesis, form: str, language: str, operations: str) -> list[Any]:
    """Text, text in the form (0 if it is the same), edit operations, substitutions, deletions,
    insertions, kind of the insertions, n-best list (text and log-probability).
    """
    return [
        result.hypothesis.text,
        _in_form_if_different(result.hypothesis.text, form, language),
        operations,
        result.errors.substitutions,
        result.errors.deletions,
        result.errors.insertions,
        result.kind,
        [
            (alternative.text, _finite(alternative.score))
            for alternative in result.hypothesis.alternatives
        ],
    ]


def _in_form_if_different(text: str, form: str, language: str) -> str | int:
    """The text in the form, words separated by single spaces; 0 if it is the same text, which the
    page then uses.
    """
    converted = normalise(text, form, language)
    return 0 if converted == text else converted


def _finite(score: float | None) -> float | None:
    return round(score, 4) if score is not None and math.isfinite(score) else None
