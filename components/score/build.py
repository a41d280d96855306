"""The stage: ``data/decode`` and ``data/systems`` → ``metrics/score.json`` (in git) and tables in
``data/score``.

``speakers.csv`` and ``groups.csv`` have the rates of parts of a set. ``utterances.parquet`` has a
row for each utterance and system with texts and errors, for the report and for comparing runs.
Cost: ``python -m bench.scoring`` measures it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.config import catalogue
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import folder_digests
from components.runtime.parquet import open_writer
from components.runtime.stage import Stage
from components.score.figures import COUNTS, UTTERANCES
from components.score.insertions import LlmPhrases, collect_phrases
from components.score.metrics import (
    ErrorCounts,
    clip_kinds,
    count_errors,
    group_rows,
    llm_metrics,
    nonspeech_metrics,
    positions_by_label,
    speech_metrics,
)
from components.score.sources import check_words, condition_figure, read_source
from components.score.systems import SUFFIX, DecodedSet, read_sets
from components.text.forms import FORMS, prepare
from components.text.hypothesis import LLM_ONLY, Hypothesis

HYPOTHESES = Path("data/decode")
SYSTEMS = Path("data/systems")
OUT = Path("data/score")
METRICS = Path("metrics/score.json")
SPEAKER_COLUMNS = (
    "set",
    "system",
    "speaker",
    "wer",
    "substitutions",
    "deletions",
    "insertions",
    "words",
)
GROUP_COLUMNS = (
    "set",
    "system",
    "by",
    "group",
    "wer",
    "low",
    "high",
    "substitutions",
    "deletions",
    "insertions",
    "words",
)
# Columns of the table of utterances → attributes of a hypothesis.
ATTRIBUTES = {
    "id": "utterance_id",
    "speaker": "speaker",
    "language": "language",
    "seconds": "duration_s",
    "reference": "reference",
    "text": "text",
}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class _Scorer:
    """Scores one system on one set."""

    form: str
    resamples: int
    phrases: LlmPhrases

    def score(
        self, decoded: DecodedSet, hypotheses: Sequence[Hypothesis]
    ) -> tuple[dict[str, Any], ErrorCounts, list[str]]:
        """The figures of a system, its counts, and the kind of insertions of each utterance."""
        counts = count_errors(hypotheses, self.form, self.phrases)
        if decoded.is_speech:
            figures = speech_metrics(hypotheses, counts, self.form, self.resamples)
            return figures, counts, counts.main_kinds()
        kinds = clip_kinds(hypotheses, self.phrases)
        return nonspeech_metrics(hypotheses, kinds), counts, kinds


def work(stage: Stage) -> None:
    """Scores all sets and writes metrics, tables and record.

    Raises InputError for hypotheses that are incomplete or do not fit the corpus.
    """
    params = stage.params
    prompt = params.train.prompt or catalogue.llm(params.llm).prompt
    contexts = [constraints.context for constraints in params.decode.sets.values()]
    phrases = collect_phrases(prompt.template, *prompt.variants, *contexts)
    scorer = _Scorer(params.score.text_form, params.score.resamples, phrases)
    inputs = {"decode": recorded_digests(HYPOTHESES), "systems": _system_digests()}
    out = empty_folder(OUT)
    sets = read_sets(HYPOTHESES, SYSTEMS, params.decode.sets)
    # A wrong number of words stops before the work.
    facts = {decoded.name: _set_figures(params.corpus, decoded) for decoded in sets}
    _normalise_all(sets, scorer.form)
    scores: dict[str, dict[str, Any]] = {}
    speakers: Rows = [SPEAKER_COLUMNS]
    groups: Rows = [GROUP_COLUMNS]
    with open_writer(out / "utterances.parquet", UTTERANCES) as writer:
        for decoded in sets:
            scores[decoded.name] = {}
            for system, hypotheses in decoded.systems.items():
                if system == LLM_ONLY:
                    scores[decoded.name][LLM_ONLY] = llm_metrics(hypotheses)
                    continue
                figures, counts, kinds = scorer.score(decoded, hypotheses)
                scores[decoded.name][system] = {**figures, **facts[decoded.name]}
                writer.write_table(_utterance_table(decoded, system, counts, kinds))
                if decoded.is_speech:
                    key = (decoded.name, system)
                    speakers += [(*key, *row) for row in _speaker_rows(hypotheses, counts)]
                    parts = group_rows(hypotheses, counts, scorer.resamples)
                    groups += [(*key, *row) for row in parts]
    METRICS.parent.mkdir(exist_ok=True)
    METRICS.write_text(json.dumps(scores, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    _write_csv(out / "speakers.csv", speakers)
    _write_csv(out / "groups.csv", groups)
    libraries = ("jiwer", "RapidFuzz", "whisper_normalizer")
    parameters = asdict(params.score)
    write_record(out, "score", parameters=parameters, inputs=inputs, libraries=libraries)


def _system_digests() -> dict[str, str]:
    """Digest of each text of other systems; other files in the folder change no figure."""
    if not SYSTEMS.is_dir():
        return {}
    digests = folder_digests(SYSTEMS).items()
    return {path: digest for path, digest in digests if path.endswith(SUFFIX)}


def _set_figures(corpus: str, decoded: DecodedSet) -> dict[str, Any]:
    """The figures that all systems of a set have: its condition, and whether the number of its
    words was checked.
    """
    settings = read_source(corpus, decoded.role, decoded.name)
    references = [utterance.reference for utterance in decoded.utterances]
    return {
        **condition_figure(decoded.name, settings),
        **check_words(decoded.name, settings, references),
    }


def _normalise_all(sets: Sequence[DecodedSet], form: str) -> None:
    """Prepares the texts that are compared in each form: those of speech, and those of non-speech
    if Whisper's form is the reported one.
    """
    texts = [
        (text, hypothesis.language)
        for decoded in sets
        if form == "whisper" or decoded.is_speech
        for hypotheses in decoded.systems.values()
        for hypothesis in hypotheses
        for text in (hypothesis.reference, hypothesis.text)
    ]
    for name in FORMS:
        prepare((text for text, _ in texts), name, (language for _, language in texts))


def _speaker_rows(hypotheses: Sequence[Hypothesis], counts: ErrorCounts) -> Rows:
    speakers = positions_by_label([hypothesis.speaker for hypothesis in hypotheses])
    return [
        (speaker, *counts.figures(positions).values()) for speaker, positions in speakers.items()
    ]


def _utterance_table(
    decoded: DecodedSet, system: str, counts: ErrorCounts, kinds: Sequence[str]
) -> pa.Table:
    hypotheses = decoded.systems[system]
    num_rows = len(hypotheses)
    columns: dict[str, Any] = {
        "set": [decoded.name] * num_rows,
        "role": [decoded.role] * num_rows,
        "system": [system] * num_rows,
        "kind": kinds,
    }
    for name, attribute in ATTRIBUTES.items():
        columns[name] = [getattr(hypothesis, attribute) for hypothesis in hypotheses]
    columns |= {name: getattr(counts, name) for name in COUNTS}
    return pa.table({name: columns[name] for name in UTTERANCES.names}, schema=UTTERANCES)


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
