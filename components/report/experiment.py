"""A finished run as the report reads it: its figures, and every system's hypothesis of each
utterance.

In: a folder that is a workspace (``metrics/score.json``, ``data/score``, ``data/decode``) or has
only ``score.json`` and ``utterances.parquet``. Out: an ``Experiment``. Cost: about a second for
30,000 rows of utterances.

The counts of ``score`` are used as they are; nothing is scored again. The n-best lists come from
``data/decode``; a list is empty if the system has none or the folder does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.decode.hypotheses import read_alternatives
from components.runtime.csv_files import read_csv
from components.runtime.parquet import read_table
from components.score.figures import COUNTS, UTTERANCES, Scores, read_scores
from components.score.insertions import TEXT
from components.text.hypothesis import LLM_ONLY, Hypothesis
from components.text.wer import WordErrors

# Columns that lack values where there is nothing to say.
NULLABLE = set(UTTERANCES.names) - {"set", "role", "system", "id", "seconds"}
RESCORE = "Run 'dvc repro -f score'."
UtteranceKey = tuple[str, str]  # set, id of the utterance


@dataclass(frozen=True)
class ScoredHypothesis:
    """A hypothesis with its word errors, and the main kind of its insertions; "" if it has none."""

    hypothesis: Hypothesis
    errors: WordErrors
    kind: str


@dataclass
class ScoredUtterance:
    """One utterance of a set, with the result of each system in the order of the systems."""

    set: str
    role: str
    id: str
    speaker: str
    language: str
    duration_s: float  # of the audio
    reference: str
    words: int  # of the reference
    results: dict[str, ScoredHypothesis] = field(default_factory=dict)

    @property
    def key(self) -> UtteranceKey:
        """Set and id."""
        return self.set, self.id

    @property
    def is_speech(self) -> bool:
        """Whether its set is one of speech."""
        return not self.role.startswith("nonspeech")

    @property
    def num_errors(self) -> int:
        """Errors of all systems together: the page is sorted by it and has audio of the first."""
        return sum(result.errors.errors for result in self.results.values())


@dataclass
class Experiment:
    """A finished run; ``label`` is empty if there is only one."""

    label: str
    scores: Scores
    utterances: list[ScoredUtterance]
    groups: list[dict[str, str]]  # rows of groups.csv
    speakers: list[dict[str, str]]  # rows of speakers.csv

    @property
    def systems(self) -> list[str]:
        """Systems that wrote text: in the order of the utterances' results, then of the scores."""
        written = [system for utterance in self.utterances for system in utterance.results]
        scored = [
            system for systems in self.scores.values() for system in systems if system != LLM_ONLY
        ]
        return list(dict.fromkeys([*written, *scored]))

    @property
    def form(self) -> str:
        """The text form in which words were compared; raises InputError if two sets have two."""
        forms = {
            figures["text_form"]
            for systems in self.scores.values()
            for figures in systems.values()
            if "text_form" in figures
        }
        if len(forms) > 1:
            raise InputError(
                f"The scores mix {len(forms)} text forms: {', '.join(sorted(forms))}.",
                subject="text_form",
                hint=RESCORE,
            )
        return next(iter(forms), "casefold")


def read_experiment(root: Path, label: str = "") -> Experiment:
    """The run in ``root``; raises InputError that names the file if one is missing or has an older
    format.
    """
    scores = _find(root, "metrics/score.json", "score.json")
    table = _find(root, "data/score/utterances.parquet", "utterances.parquet")
    experiment = Experiment(
        label,
        read_scores(scores),
        _read_utterances(table, root / "data" / "decode"),
        _read_csv(table.with_name("groups.csv")),
        _read_csv(table.with_name("speakers.csv")),
    )
    return replace(experiment, scores=_order_scores(experiment))


def _order_scores(experiment: Experiment) -> Scores:
    """The scores with sets and systems in the order of the utterances, the LLM alone last; JSON has
    them in alphabetical order.
    """
    written = (utterance.set for utterance in experiment.utterances)
    systems = [*experiment.systems, LLM_ONLY]
    return {
        name: {
            system: experiment.scores[name][system]
            for system in systems
            if system in experiment.scores[name]
        }
        for name in dict.fromkeys([*written, *experiment.scores])
        if name in experiment.scores
    }


def _find(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"{root / names[0]} is missing.",
        subject=str(root),
        hint="Run 'dvc repro score' in that folder first.",
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.is_file() else []


def _read_utterances(path: Path, hypotheses: Path) -> list[ScoredUtterance]:
    """The rows of ``utterances.parquet``, one utterance for all its systems."""
    table = read_table(path, UTTERANCES, optional=COUNTS[4:], nullable=NULLABLE)
    utterances: dict[UtteranceKey, ScoredUtterance] = {}
    n_best: dict[tuple[str, str], dict[tuple[str, str], list[Hypothesis]]] = {}
    for row in table.to_pylist():
        system, role, name = row["system"], row["role"], row["set"]
        if system == LLM_ONLY:
            continue
        if (role, name) not in n_best:
            n_best[role, name] = read_alternatives(hypotheses / role / f"{name}.parquet")
        key = (name, row["id"])
        utterance = utterances.setdefault(key, _utterance(row))
        if system in utterance.results:
            raise InputError(
                f"{path}: two rows of '{system}' for utterance '{row['id']}' of {name}.",
                subject=row["id"],
                hint=RESCORE,
            )
        alternatives = n_best[role, name].get((system, row["id"]), [])
        utterance.results[system] = _scored_hypothesis(row, utterance, alternatives)
    return list(utterances.values())


def _utterance(row: dict[str, Any]) -> ScoredUtterance:
    return ScoredUtterance(
        set=row["set"],
        role=row["role"],
        id=row["id"],
        speaker=row["speaker"] or "",
        language=row["language"] or "",
        duration_s=row["seconds"],
        reference=row["reference"] or "",
        words=row["words"] or 0,
    )


def _scored_hypothesis(
    row: dict[str, Any], utterance: ScoredUtterance, alternatives: list[Hypothesis]
) -> ScoredHypothesis:
    text, insertions, kind = row["text"] or "", row["insertions"] or 0, row["kind"] or ""
    if not utterance.is_speech and text.strip():
        # On non-speech each word is an insertion, whether or not it was counted.
        insertions, kind = insertions or len(text.split()), kind or TEXT
    hypothesis = Hypothesis(
        text,
        alternatives=alternatives,
        system=row["system"],
        utterance_id=utterance.id,
        speaker=utterance.speaker,
        language=utterance.language,
        reference=utterance.reference,
        duration_s=utterance.duration_s,
    )
    errors = WordErrors(
        row["substitutions"] or 0, row["deletions"] or 0, insertions, utterance.words
    )
    return ScoredHypothesis(hypothesis, errors, kind)
