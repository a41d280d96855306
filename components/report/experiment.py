"""What the report reads of a finished run: its figures, and of each utterance what every system
made of it.

In: a folder that is a workspace (``metrics/score.json``, ``data/score``, ``data/decode``) or holds
just ``score.json`` and ``utterances.parquet``. Out: an ``Experiment``. Cost: about a second for
30,000 rows of utterances.

What ``score`` counted is taken as it counted it; nothing is scored again. n-best lists come from
``data/decode``; where a system has none (or the folder is not there) its list is empty.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.config.errors import InputError
from components.decode.hypotheses import read_alternatives
from components.text.hypothesis import LLM_ONLY, Hypothesis

COLUMNS = (
    "set",
    "role",
    "system",
    "id",
    "speaker",
    "language",
    "seconds",
    "reference",
    "text",
    "substitutions",
    "deletions",
    "insertions",
    "words",
    "kind",
)
Scores = dict[str, dict[str, dict[str, Any]]]
Key = tuple[str, str]  # set, id of an utterance


@dataclass(frozen=True)
class ScoredHypothesis:
    """A hypothesis and its word errors. ``kind`` is that of the insertions, empty where there is
    none.
    """

    hypothesis: Hypothesis
    substitutions: int
    deletions: int
    insertions: int
    kind: str

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


@dataclass
class Utterance:
    """One utterance of a set; ``said`` by system, in the order of the systems; ``seconds`` of
    audio; ``words`` of the reference.
    """

    set: str
    role: str
    id: str
    speaker: str
    language: str
    seconds: float
    reference: str
    words: int
    said: dict[str, ScoredHypothesis] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.set, self.id

    @property
    def speech(self) -> bool:
        return not self.role.startswith("nonspeech")

    @property
    def damage(self) -> int:
        """Errors of all systems together: what the page sorts by, and whose audio it carries."""
        return sum(each.errors for each in self.said.values())


@dataclass
class Experiment:
    """A finished run; ``label`` is empty where there is but one."""

    label: str
    scores: Scores
    utterances: list[Utterance]
    groups: list[dict[str, str]]  # rows of groups.csv
    speakers: list[dict[str, str]]  # rows of speakers.csv

    @property
    def systems(self) -> list[str]:
        """Systems that wrote text, in the order in which they come up in the utterances, then in
        the scores.
        """
        scored = [
            system for systems in self.scores.values() for system in systems if system != LLM_ONLY
        ]
        return list(
            dict.fromkeys([*(system for each in self.utterances for system in each.said), *scored])
        )

    @property
    def form(self) -> str:
        """The text form that words were compared in; raises InputError where two sets had two."""
        found = {
            figures["text_form"]
            for systems in self.scores.values()
            for figures in systems.values()
            if "text_form" in figures
        }
        if len(found) > 1:
            raise InputError(
                f"The scores hold for {len(found)} text forms: {', '.join(sorted(found))}.",
                subject="text_form",
                hint="Run 'dvc repro -f score'.",
            )
        return next(iter(found), "casefold")


def read_experiment(root: Path, label: str = "") -> Experiment:
    """The run in ``root``; raises InputError that names the file which is missing or of an older
    form.
    """
    score, table = (
        _found(root, "metrics/score.json", "score.json"),
        _found(root, "data/score/utterances.parquet", "utterances.parquet"),
    )
    utterances = _utterances(table, root / "data" / "decode")
    found = Experiment(
        label,
        json.loads(score.read_text()),
        utterances,
        *(_rows(table.with_name(name)) for name in ("groups.csv", "speakers.csv")),
    )
    return replace(found, scores=_ordered(found))


def _ordered(experiment: Experiment) -> Scores:
    """The scores with sets and systems in the order of the utterances (JSON has them by name), the
    LLM alone last.
    """
    sets = dict.fromkeys([*(each.set for each in experiment.utterances), *experiment.scores])
    systems = [*experiment.systems, LLM_ONLY]
    return {
        name: {
            system: experiment.scores[name][system]
            for system in systems
            if system in experiment.scores[name]
        }
        for name in sets
        if name in experiment.scores
    }


def _found(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"{root / names[0]} is missing.",
        subject=str(root),
        hint="Run 'dvc repro score' there first.",
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _utterances(path: Path, hypotheses: Path) -> list[Utterance]:
    held = pq.read_table(path)
    missing = [name for name in COLUMNS if name not in held.column_names]
    if missing:
        raise InputError(
            f"{path} has no column '{missing[0]}'.",
            subject=str(path),
            hint="Run 'dvc repro -f score'.",
        )
    found: dict[Key, Utterance] = {}
    nbest: dict[tuple[str, str], dict[tuple[str, str], list[Hypothesis]]] = {}
    for row in held.select(COLUMNS).to_pylist():
        if row["system"] == LLM_ONLY:
            continue
        place = (row["role"], row["set"])
        if place not in nbest:
            nbest[place] = read_alternatives(hypotheses / row["role"] / f"{row['set']}.parquet")
        each = found.setdefault(
            (row["set"], row["id"]),
            Utterance(
                row["set"],
                row["role"],
                row["id"],
                row["speaker"] or "",
                row["language"] or "",
                row["seconds"],
                row["reference"] or "",
                row["words"] or 0,
            ),
        )
        if row["system"] in each.said:
            raise InputError(
                f"{path}: '{row['system']}' stands twice for utterance '{row['id']}' of "
                f"{row['set']}.",
                subject=row["id"],
                hint="Run 'dvc repro -f score'.",
            )
        each.said[row["system"]] = _said(
            row, each.speech, nbest[place].get((row["system"], row["id"]), [])
        )
    return list(found.values())


def _said(row: dict[str, Any], speech: bool, alternatives: list[Hypothesis]) -> ScoredHypothesis:
    text, insertions, kind = row["text"] or "", row["insertions"] or 0, row["kind"] or ""
    if not speech and text.strip():  # each word is one too many, whether or not they were counted
        insertions, kind = insertions or len(text.split()), kind or "text"
    hypothesis = Hypothesis(
        text,
        alternatives=alternatives,
        system=row["system"],
        utterance_id=row["id"],
        speaker=row["speaker"] or "",
        language=row["language"] or "",
        reference=row["reference"] or "",
        duration_s=row["seconds"],
    )
    return ScoredHypothesis(
        hypothesis, row["substitutions"] or 0, row["deletions"] or 0, insertions, kind
    )
