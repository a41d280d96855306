"""The stage: ``data/decode`` and ``data/systems`` → ``metrics/score.json`` (kept in git) and three
tables in ``data/score``.

``speakers.csv`` and ``groups.csv`` hold rates of parts of a set, ``utterances.parquet`` a row for
each utterance and system with its texts and errors: what a report shows and what runs are compared
by. Cost: ``python -m bench.scoring`` measures it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.config import catalogue
from components.runtime.artifact import empty_folder, recorded_digests, write_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from components.score.insertions import EchoPhrases, evidence
from components.score.metrics import (
    Counts,
    by_group,
    clip_kinds,
    count,
    groups,
    kinds_of_utterances,
    nonspeech_metrics,
    speech_metrics,
    text_metrics,
)
from components.score.sources import check_words, condition_of, settings_of
from components.score.systems import SUFFIX, Set, read_sets
from components.text.forms import FORMS, prepare
from components.text.hypothesis import LLM_ONLY, Hypothesis

HYPOTHESES, SYSTEMS, OUT, METRICS = (
    Path("data/decode"),
    Path("data/systems"),
    Path("data/score"),
    Path("metrics/score.json"),
)
COLUMNS = ("set", "system", "speaker", "wer", "substitutions", "deletions", "insertions", "words")
PARTS = (
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
# columns, and the attributes of a hypothesis that they hold
ATTRIBUTES = {
    "id": "utterance_id",
    "speaker": "speaker",
    "language": "language",
    "seconds": "duration_s",
    "reference": "reference",
    "text": "text",
}
NUMBERS = ("substitutions", "deletions", "insertions", "words", "character_errors", "characters")
UTTERANCES = pa.schema(
    [
        ("set", pa.string()),
        ("role", pa.string()),
        ("system", pa.string()),
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("seconds", pa.float64()),
        ("reference", pa.string()),
        ("text", pa.string()),
        *((name, pa.int64()) for name in NUMBERS),
        ("kind", pa.string()),
    ]
)


def work(stage: Stage) -> None:
    params = stage.params
    form, resamples, prompt = (
        params.score.text_form,
        params.score.resamples,
        catalogue.llm(params.llm).prompt,
    )
    inputs = {"decode": recorded_digests(HYPOTHESES), "systems": _digests()}
    out, known = empty_folder(OUT), evidence(prompt.template, *prompt.others)
    sets = read_sets(HYPOTHESES, SYSTEMS, params.decode.sets)
    notes = {
        each.name: _notes(params.corpus, each) for each in sets
    }  # before the work: a wrong total stops
    _prepare(sets, form)
    scores: dict[str, dict[str, Any]] = {}
    speakers: list[tuple[Any, ...]] = [COLUMNS]
    parts: list[tuple[Any, ...]] = [PARTS]
    with pq.ParquetWriter(out / "utterances.parquet", UTTERANCES, compression="zstd") as writer:
        for each in sets:
            scores[each.name] = {}
            for system, rows in each.systems.items():
                if system == LLM_ONLY:
                    scores[each.name][LLM_ONLY] = text_metrics(rows)
                    continue
                figures, counts, kinds = _figures(each, rows, form, resamples, known)
                scores[each.name][system] = {**figures, **notes[each.name]}
                writer.write_table(_table(each, system, rows, counts, kinds))
                if not _quiet(each):
                    lines = by_group([row.speaker for row in rows])
                    speakers += [
                        (each.name, system, speaker, *counts.figures(at).values())
                        for speaker, at in lines
                    ]
                    parts += [
                        (each.name, system, *line) for line in groups(rows, counts, resamples)
                    ]
    METRICS.parent.mkdir(exist_ok=True)
    METRICS.write_text(json.dumps(scores, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    _write(out / "speakers.csv", speakers)
    _write(out / "groups.csv", parts)
    write_record(
        out,
        "score",
        parameters=asdict(params.score),
        inputs=inputs,
        libraries=("jiwer", "RapidFuzz", "whisper_normalizer"),
    )


def _digests() -> dict[str, str]:
    """Digest of each text of other systems; what else lies there changes no figure."""
    return (
        {path: digest for path, digest in folder_digests(SYSTEMS).items() if path.endswith(SUFFIX)}
        if SYSTEMS.is_dir()
        else {}
    )


def _quiet(each: Set) -> bool:
    return each.role.startswith("nonspeech")


def _notes(corpus: str, each: Set) -> dict[str, Any]:
    """What stands beside the figures of every system of a set: its condition, and whether its words
    were checked.
    """
    settings = settings_of(corpus, each.role, each.name)
    return {
        **condition_of(settings),
        **check_words(each.name, settings, [row.reference for row in each.rows]),
    }


def _prepare(sets: Sequence[Set], form: str) -> None:
    """Normalises all texts that are compared in Whisper's form: those of speech, and of non-speech
    where it is the reported one.
    """
    rows = (
        row
        for each in sets
        if form == "whisper" or not _quiet(each)
        for rows in each.systems.values()
        for row in rows
    )
    texts = [text for row in rows for text in (row.reference, row.text)]
    for name in FORMS:
        prepare(texts, name)


def _figures(
    each: Set, rows: Sequence[Hypothesis], form: str, resamples: int, known: EchoPhrases
) -> tuple[dict[str, Any], Counts, list[str]]:
    """Figures of one system over a set, its counts, and the kind of each utterance."""
    counts = count(rows, form, known)
    if _quiet(each):
        kinds = clip_kinds(rows, known)
        return nonspeech_metrics(rows, kinds), counts, kinds
    return speech_metrics(rows, counts, form, resamples), counts, kinds_of_utterances(counts)


def _table(
    each: Set, system: str, rows: Sequence[Hypothesis], counts: Counts, kinds: Sequence[str]
) -> pa.Table:
    number = len(rows)
    columns: dict[str, Any] = {
        "set": [each.name] * number,
        "role": [each.role] * number,
        "system": [system] * number,
        "kind": kinds,
    }
    columns |= {
        name: [getattr(row, attribute) for row in rows] for name, attribute in ATTRIBUTES.items()
    }
    columns |= {name: getattr(counts, name) for name in NUMBERS}
    return pa.table({name: columns[name] for name in UTTERANCES.names}, schema=UTTERANCES)


def _write(path: Path, lines: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(lines)
