"""Builders of a workspace to score: hypotheses of systems on sets with and without speech, and the
catalogue that lists the sets.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import yaml

from components.config.params import Score
from components.decode.hypotheses import write_hypotheses
from components.runtime.artifact import write_record
from components.runtime.stage import Stage
from components.score.build import METRICS
from components.score.build import work as run
from components.search.constraints import GREEDY
from components.text.hypothesis import Hypothesis

# id, speaker, reference, text of the system "free", text of the system "ctc".
CLEAN = [
    ("c-1", "ann", "the cat sat on the mat", "the bat sat the mat today", "the cat sat on the mat"),
    ("c-2", "ann", "GOOD morning", "good morning", "good mourning"),
    ("c-3", "bob", "yes", "", "yes yes"),
    ("c-4", "", "who is this", "who is it", "who is this"),
]
NONSPEECH = [
    ("q-1", "", "", "", "thank you"),
    ("q-2", "", "", " ", ""),
    ("q-3", "", "", "hm", "you"),
    ("q-4", "", "", "", ""),
]
COUNTS = ("substitutions", "deletions", "insertions", "words")
KINDS = {"loop", "echo", "refusal", "run-on", "other"}
CORPUS = {
    "test": {
        "clean": {"kind": "table"},
        "other": {"kind": "altered", "source": {"kind": "table"}, "snr_db": 5, "seed": 1},
    },
    "dev": {"dev": {"kind": "table"}},
    "nonspeech-test": {"nonspeech": {"kind": "altered", "source": {"kind": "table"}, "tempo": 0.8}},
}
LLM = {
    "source": {"kind": "folder", "folder": "x"},
    "prompt": {"template": "Please write what you hear: {speech}"},
    "lora": {"targets": []},
    "numerics": {"dtype": "float32"},
}


def write_catalogue(corpora: dict) -> None:
    """Writes ``catalogue/corpus.yaml``."""
    Path("catalogue").mkdir(exist_ok=True)
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump(corpora))


def build_hypotheses(system: str, utterances: list[tuple], column: int) -> list[Hypothesis]:
    """Hypotheses of a system with the texts of a column of ``utterances``."""
    return [
        Hypothesis(text[column - 3], [1, 2], -1.5, [], system, name, speaker, "", reference, 2.0)
        for name, speaker, reference, *text in utterances
    ]


def write_set(name: str, hypotheses: list[Hypothesis]) -> None:
    """Writes ``data/decode/<name>.parquet`` and the record of the folder."""
    path = Path("data/decode") / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_hypotheses(path, hypotheses)
    write_record(Path("data/decode"), "decode", parameters={}, inputs={})


def run_score(form: str = "casefold", resamples: int = 200, context: str = "") -> dict:
    """Runs the stage after a search in ``context``; returns ``metrics/score.json``."""
    decode = SimpleNamespace(sets={"free": replace(GREEDY, context=context)})
    params = SimpleNamespace(
        corpus="embedded",
        llm="plain",
        train=SimpleNamespace(prompt=None),
        decode=decode,
        score=Score(form, resamples),
    )  # type: ignore[arg-type,call-arg]
    run(Stage("score", params, ""))  # type: ignore[arg-type]
    return json.loads(METRICS.read_text())
