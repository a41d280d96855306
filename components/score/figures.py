"""``metrics/score.json`` as its readers take it: set → system → figures; and the columns of the
scored utterances.

In: a path, or the bytes of a commit. Out: plain data of the right shape. Cost: milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from components.config.errors import damaged_file
from components.runtime.json_files import parse_json, read_json

Scores = dict[str, dict[str, dict[str, Any]]]  # set → system → figures
RESCORE = (
    "'dvc repro -f score' writes it again; of another revision, 'git show' or 'git checkout' "
    "brings back the committed one."
)
# One of them is in the figures of each system: of speech, of non-speech, of an LLM alone.
MAIN_FIGURES = ("wer", "text_rate", "perplexity")
COUNTS = ("substitutions", "deletions", "insertions", "words", "character_errors", "characters")
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
        *((name, pa.int64()) for name in COUNTS),
        ("kind", pa.string()),
    ]
)
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int | float, Field(ge=0)]


@dataclass(frozen=True)
class _Figures:
    """The types of the figures that readers compute with; there may be more."""

    wer: Number = 0
    wer_low: Number = 0
    wer_high: Number = 0
    cer: Number = 0
    substitutions: Count = 0
    deletions: Count = 0
    insertions: Count = 0
    words: Count = 0
    at_limit: Count = 0
    text_rate: Number = 0
    clips: Count = 0
    characters_a_minute: Number = 0
    perplexity: Number = 0
    text_form: str = ""
    interval_by: str = ""
    forms: dict[str, Number] = field(default_factory=dict)
    insertion_kinds: dict[str, Count] = field(default_factory=dict)


def read_scores(path: Path) -> Scores:
    """The scores of a file; raises InputError where it is missing or damaged."""
    return _checked(read_json(path, Scores, hint=RESCORE), str(path))


def parse_scores(data: bytes | str, where: str) -> Scores:
    """``read_scores`` of bytes; errors name ``where`` they are from."""
    return _checked(parse_json(data, where, Scores, hint=RESCORE), where)


def _checked(scores: Scores, where: str) -> Scores:
    parse_json(json.dumps(scores), where, dict[str, dict[str, _Figures]], hint=RESCORE)
    for name, systems in scores.items():
        for system, figures in systems.items():
            if not any(name in figures for name in MAIN_FIGURES):
                reason = f"figures of '{system}' on {name} are missing"
                raise damaged_file(where, reason, RESCORE)
    return scores
