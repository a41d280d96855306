"""A small finished run in the current folder, with the files of ``score``, ``decode``, ``shards``
and ``train``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from components.audio.sound import encode_flac
from components.config.params import read_params
from components.report.alignment import edit_operations
from components.report.build import ARTIFACTS, work
from components.runtime.artifact import empty_folder, write_record
from components.runtime.stage import Stage
from components.score.build import GROUP_COLUMNS, SPEAKER_COLUMNS, UTTERANCES
from components.shards.index import INDEX, write_index
from components.shards.writer import TarMember, write_tar
from tests.conftest import REPOSITORY

MARKUP = "</script><img src=x onerror=window.broken=1><b>bold</b> &amp; 'quoted' \"twice\" <!-- end"
SYSTEMS = ("free", "constrained", "ctc")
RATE = 16_000  # Hz
COUNTS = ("substitutions", "deletions", "insertions", "words")


@dataclass(frozen=True)
class DecodedUtterance:
    """An utterance with a text of each of SYSTEMS; the first system has two alternatives."""

    id: str
    reference: str
    texts: tuple[str, ...]
    seconds: float = 0.5
    speaker: str = "ann"
    kind: str = ""
    language: str = "en"


CLEAN = [
    DecodedUtterance(
        "c-1",
        "the cat sat on the mat",
        ("the bat sat the mat today", "the cat sat on the mat", "the cat sad on a mat"),
        1.25,
    ),
    DecodedUtterance(
        "c-2", "GOOD morning", ("good morning", "good mourning", "good"), speaker="bob"
    ),
    DecodedUtterance("c-3", "yes", ("yes yes yes yes yes yes yes", "yes", ""), kind="loop"),
    DecodedUtterance(
        "c-4", MARKUP, (MARKUP, MARKUP.replace("bold", "bald"), "quoted"), 2.0, speaker="<i>eve</i>"
    ),
    DecodedUtterance("c-5", "grüße an alle", ("grüße an alle",) * 3, language="de"),
]
NONSPEECH = [
    DecodedUtterance("q-1", "", ("thank you", "", ""), kind="text"),
    DecodedUtterance("q-2", "", ("", "", "")),
    DecodedUtterance("q-3", "", ("", "", "hm"), kind="text"),
]
ROLES = {
    "dev": {"dev": CLEAN[:3]},
    "test": {"clean": CLEAN, "noisy": CLEAN[:2]},
    "nonspeech-test": {"nonspeech": NONSPEECH},
}
CORPUS = {
    "dev": {"dev": {"kind": "made", "split": "dev"}},
    "test": {
        "clean": {"kind": "made", "split": "test"},
        "noisy": {
            "kind": "altered",
            "source": {"kind": "made", "split": "test"},
            "snr_db": 5,
            "seed": 1,
        },
    },
    "nonspeech-test": {"nonspeech": {"kind": "synthetic"}},
}
Roles = Mapping[str, Mapping[str, Sequence[DecodedUtterance]]]


def write_run(
    roles: Roles = ROLES,
    *,
    audio: bool = True,
    intervals: bool = True,
    curve: Sequence[tuple[float, float]] | None = None,
) -> None:
    """Fills the current folder."""
    write_scores(roles, intervals)
    for role, sets in roles.items():
        write_hypotheses(role, sets)
        if audio:
            write_shards(role, sets)
    write_folder_record(
        "data/decode",
        "decode",
        {"sets": {"free": {"beams": 4}}},
        {"model": {"bridge": {"bridge.safetensors": "0f" * 32}}},
    )
    for folder in ARTIFACTS[2:]:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            write_folder_record(
                str(folder),
                folder.parts[1],
                {"seed": 1, "curriculum": [{"name": "projector", "steps": 3}]},
                {},
            )
    write_training(
        curve
        if curve is not None
        else [(3.0 - 0.02 * step, 0.2 if step < 60 else 0.9) for step in range(100)]
    )
    write_settings()


def write_settings(**report: float) -> None:
    """``params.yaml`` of the repository with a corpus of its own, and what ``report`` sets."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {"corpus": "recorded"}
    params["report"] |= report
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    Path("catalogue").mkdir(exist_ok=True)
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump({"recorded": CORPUS}))


def run_report(**report: float) -> str:
    """The stage, as ``python -m components.report`` runs it; the page's text."""
    if report:
        write_settings(**report)
    work(Stage("report", read_params(), ""))
    return Path("data/report/index.html").read_text(encoding="utf-8")


def write_folder_record(folder: str, stage: str, parameters: Any, inputs: dict[str, Any]) -> None:
    write_record(Path(folder), stage, parameters=parameters, inputs=inputs, libraries=("numpy",))


def build_rows(
    role: str, name: str, utterances: Sequence[DecodedUtterance]
) -> list[dict[str, Any]]:
    """The rows of ``utterances.parquet`` of a set."""
    rows = []
    for system_index, system in enumerate(SYSTEMS):
        decoded = [utterance for utterance in utterances if system_index < len(utterance.texts)]
        texts = [utterance.texts[system_index] for utterance in decoded]
        operations = edit_operations(
            [utterance.reference.casefold() for utterance in decoded],
            [text.casefold() for text in texts],
        )
        for utterance, text, letters in zip(decoded, texts, operations):
            substitutions, deletions, insertions = (letters.count(letter) for letter in "SDI")
            has_kind = insertions and system != "constrained"
            kind = ((utterance.kind if has_kind else "") or "other") if insertions else ""
            rows.append(
                {
                    "set": name,
                    "role": role,
                    "system": system,
                    "id": utterance.id,
                    "speaker": utterance.speaker,
                    "language": utterance.language,
                    "seconds": utterance.seconds,
                    "reference": utterance.reference,
                    "text": text,
                    "substitutions": substitutions,
                    "deletions": deletions,
                    "insertions": insertions,
                    "words": len(utterance.reference.split()),
                    "character_errors": 0,
                    "characters": len(utterance.reference),
                    "kind": kind,
                }
            )
    return rows


def write_scores(roles: Roles, intervals: bool = True) -> None:
    """``data/score`` and ``metrics/score.json``."""
    out = empty_folder(Path("data/score"))
    rows = [
        row
        for role, sets in roles.items()
        for name, utterances in sets.items()
        for row in build_rows(role, name, utterances)
    ]
    metrics: dict[str, dict[str, Any]] = {name: {} for sets in roles.values() for name in sets}
    for role, sets in roles.items():
        for name in sets:
            for system in SYSTEMS:
                selected = [row for row in rows if (row["set"], row["system"]) == (name, system)]
                if selected:
                    metrics[name][system] = build_figures(role, selected, intervals)
    speakers = [(name, "free", "ann", 0.25, 1, 1, 1, 12) for name in metrics if name != "nonspeech"]
    write_csv(out / "groups.csv", GROUP_COLUMNS, build_groups(rows))
    write_csv(out / "speakers.csv", SPEAKER_COLUMNS, speakers)
    pq.write_table(pa.Table.from_pylist(rows, schema=UTTERANCES), out / "utterances.parquet")
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/score.json").write_text(json.dumps(metrics, indent=1, sort_keys=True))
    write_folder_record(
        "data/score",
        "score",
        {"text_form": "casefold"},
        {"decode": {"test/clean.parquet": "ab" * 32}},
    )


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])


def build_groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows of ``groups.csv``: a group has the figures of its last utterance."""
    groups = {}
    for row in rows:
        if not row["role"].startswith("nonspeech"):
            counts = [row[key] for key in COUNTS]
            wer = round(sum(counts[:3]) / row["words"], 6)
            key = (row["set"], row["system"], "0 to 1 s" if row["seconds"] < 1 else "1 to 5 s")
            groups[key] = (*key[:2], "duration", key[2], wer, wer / 2, wer * 1.5, *counts)
    return list(groups.values())


def build_figures(role: str, rows: Sequence[Mapping[str, Any]], intervals: bool) -> dict[str, Any]:
    if role.startswith("nonspeech"):
        rate = sum(bool(row["text"].strip()) for row in rows) / len(rows)
        texts = sum(bool(row["text"].strip()) for row in rows)
        return {
            "text_rate": round(rate, 6),
            "clips": len(rows),
            "characters_a_minute": 12.5,
            "insertion_kinds": {"loop": 0, "echo": 0, "refusal": 0, "text": texts},
        }
    sums = {key: sum(row[key] for row in rows) for key in COUNTS}
    wer = round((sums["substitutions"] + sums["deletions"] + sums["insertions"]) / sums["words"], 6)
    kinds = {
        kind: sum(row["insertions"] for row in rows if row["kind"] == kind)
        for kind in ("loop", "echo", "refusal", "run-on", "other")
    }
    bounds = (
        {"wer_low": round(wer * 0.8, 6), "wer_high": round(wer * 1.3, 6), "interval_by": "speaker"}
        if intervals
        else {}
    )
    return {
        "wer": wer,
        **bounds,
        **sums,
        "cer": round(wer / 3, 6),
        "text_form": "casefold",
        "insertion_kinds": kinds,
        "forms": {"as-is": wer, "casefold": wer, "whisper": wer},
    }


def write_hypotheses(role: str, sets: Mapping[str, Sequence[DecodedUtterance]]) -> None:
    """``data/decode/<role>/<set>.parquet`` with the columns that the report reads; ``ctc`` has no
    n-best.
    """
    schema = pa.schema(
        [
            ("system", pa.string()),
            ("id", pa.string()),
            ("text", pa.string()),
            ("others", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))),
        ]
    )
    for name, utterances in sets.items():
        rows = []
        for system_index, system in enumerate(SYSTEMS):
            for utterance in utterances:
                if system_index < len(utterance.texts):
                    others = [
                        {"text": f"{utterance.texts[system_index]} maybe", "score": -2.5},
                        {"text": "", "score": float("nan")},
                    ]
                    rows.append(
                        {
                            "system": system,
                            "id": utterance.id,
                            "text": utterance.texts[system_index],
                            "others": others if system == "free" else [],
                        }
                    )
        path = Path("data/decode") / role / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_shards(role: str, sets: Mapping[str, Sequence[DecodedUtterance]]) -> None:
    """``data/shards/<role>``: a tone for each utterance."""
    out = empty_folder(Path("data/shards") / role)
    for number, (name, utterances) in enumerate(sets.items()):
        (out / name).mkdir()
        sounds = [
            (
                utterance,
                encode_flac(build_tone(utterance.seconds, 200 + 100 * number)),
                round(utterance.seconds * RATE),
            )
            for utterance in utterances
        ]
        samples = [
            TarMember(
                utterance.id,
                flac,
                length,
                0,
                utterance.reference,
                utterance.speaker,
                utterance.language,
            )
            for utterance, flac, length in sounds
        ]
        write_index(
            out / name / INDEX, write_tar(out / name / f"{name}-000000.tar", samples, "flac")
        )
    write_folder_record(str(out), "shards", {"utterances": 250}, {})


def build_tone(seconds: float, pitch: float) -> np.ndarray:
    """Mono float32 at 16 kHz."""
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(
        np.float32
    )


def write_training(curve: Sequence[tuple[float, float]]) -> None:
    """``metrics/curve.csv`` of losses and accuracies, decoded every 25 steps, in two stages; and
    its summary.
    """
    lines = ["step,stage,loss,matching,accuracy,dev_wer"]
    for step, (loss, accuracy) in enumerate(curve):
        dev = f"{1 - accuracy:.6f}" if step % 25 == 24 else ""
        stage = "projector" if step < len(curve) / 2 else "lora"
        lines.append(f"{step},{stage},{loss:.6f},,{accuracy:.6f},{dev}")
    Path("metrics/curve.csv").write_text("\n".join(lines) + "\n")
    jump = next((step for step, (_, accuracy) in enumerate(curve) if accuracy > 0.5), None)
    Path("metrics/train.json").write_text(
        json.dumps({"steps": len(curve), "jump": {"step": jump}, "best": {}})
    )


def build_utterances(count: int) -> list[DecodedUtterance]:
    """``count`` different utterances, every third with errors."""
    word = [f"word{number}" for number in range(97)]
    utterances = []
    for number in range(count):
        reference = " ".join(word[(number * 7 + position) % 97] for position in range(12))
        worse = reference.replace("word", "ward", number % 3)
        utterances.append(
            DecodedUtterance(
                f"u-{number:05d}", reference, (worse, reference, reference), 0.1 + number % 10
            )
        )
    return utterances


def drop_last_system(utterances: Sequence[DecodedUtterance]) -> list[DecodedUtterance]:
    """The same utterances, without a text of the last system."""
    return [replace(utterance, texts=utterance.texts[:-1]) for utterance in utterances]
