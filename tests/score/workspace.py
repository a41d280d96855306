"""A workspace that can be scored: hypotheses of two systems on sets with and without speech, and
the catalogue that lists them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import yaml

from components.config.params import Score
from components.decode.hypotheses import write_hypotheses
from components.runtime.artifact import write_record
from components.runtime.stage import Stage
from components.score.build import METRICS
from components.score.build import work as run
from components.text.hypothesis import Hypothesis

# id, speaker, reference → what two systems make of it.
CLEAN = [
    ("c-1", "ann", "the cat sat on the mat", "the bat sat the mat today", "the cat sat on the mat"),
    ("c-2", "ann", "GOOD morning", "good morning", "good mourning"),
    ("c-3", "bob", "yes", "", "yes yes"),
    ("c-4", "", "who is this", "who is it", "who is this"),
]
QUIET = [
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
    "nonspeech-test": {"quiet": {"kind": "altered", "source": {"kind": "table"}, "tempo": 0.8}},
}
LLM = {
    "source": {"kind": "folder", "folder": "x"},
    "prompt": {"template": "Please write what you hear: {speech}"},
    "lora": {"targets": []},
    "numerics": {"dtype": "float32"},
}


def lists(corpora: dict) -> None:
    Path("catalogue").mkdir(exist_ok=True)
    Path("catalogue/corpus.yaml").write_text(yaml.safe_dump(corpora))


def rows(system: str, told: list[tuple], column: int) -> list[Hypothesis]:
    return [
        Hypothesis(text[column - 3], [1, 2], -1.5, [], system, name, speaker, "", reference, 2.0)
        for name, speaker, reference, *text in told
    ]


def hold(name: str, found: list[Hypothesis]) -> None:
    path = Path("data/decode") / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_hypotheses(path, found)
    write_record(Path("data/decode"), "decode", parameters={}, inputs={})


def scores(form: str = "casefold", resamples: int = 200) -> dict:
    decode = SimpleNamespace(sets={"free": None})
    params = SimpleNamespace(
        corpus="mine", llm="plain", decode=decode, score=Score(form, resamples)
    )  # type: ignore[arg-type,call-arg]
    run(Stage("score", params, ""))  # type: ignore[arg-type]
    return json.loads(METRICS.read_text())
