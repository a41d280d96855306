"""The stage: ``data/decode`` → ``metrics/score.json`` (kept in git) and ``data/score/speakers.csv``."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config.artifact import contents, fresh, write_record
from components.config.errors import InputError
from components.config.stage import Stage
from components.decode.hypotheses import ALONE, Row, read_hypotheses
from components.score.metrics import by_speaker, by_system, nonspeech_metrics, speech_metrics, text_metrics

HYPOTHESES, OUT, METRICS = Path("data/decode"), Path("data/score"), Path("metrics/score.json")
COLUMNS = ("set", "system", "speaker", "wer", "substitutions", "deletions", "insertions", "words")


def work(stage: Stage) -> None:
    out, form = fresh(OUT), stage.params.score.text_form
    scores: dict[str, Any] = {}
    lines: list[tuple[Any, ...]] = [COLUMNS]
    for path in sorted(HYPOTHESES.glob("*/*.parquet")):
        name, systems = path.stem, by_system(read_hypotheses(path))
        if name in scores:
            raise InputError(f"Two sources are called '{name}'.", unit=name, way_out="Rename one in catalogue/corpus.yaml.")
        _check_complete(name, systems)
        if path.parent.name.startswith("nonspeech"):
            scores[name] = {system: nonspeech_metrics(rows) for system, rows in systems.items()}
            continue
        alone = systems.pop(ALONE, None)
        scores[name] = {system: speech_metrics(rows, form) for system, rows in systems.items()}
        if alone:
            scores[name][ALONE] = text_metrics(alone)
        for system, rows in systems.items():
            lines += [(name, system, speaker, *each.values()) for speaker, each in by_speaker(rows, form).items()]
    METRICS.parent.mkdir(exist_ok=True)
    METRICS.write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")
    with (out / "speakers.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(lines)
    write_record(out, "score", parameters=asdict(stage.params.score), inputs={"decode": contents(HYPOTHESES)}, libraries=("jiwer",))


def _check_complete(name: str, systems: dict[str, list[Row]]) -> None:
    """Every system must have said something about the same utterances, each once."""
    wanted = {row.id for row in next(iter(systems.values()))}
    for system, rows in systems.items():
        counts = Counter(row.id for row in rows)
        wrong = sorted((counts.keys() ^ wanted) | {each for each, count in counts.items() if count > 1})
        if wrong:
            raise InputError(f"{name}: the hypotheses of '{system}' miss or double {wrong[:3]}.", unit=name,
                             way_out="Run 'dvc repro -f decode'.")  # fmt: skip
