"""The numbers of a set: word errors of each system, and on non-speech the share of clips that give any text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from components.decode.hypotheses import Row
from components.text.wer import WordErrors, word_errors


def by_system(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by system, in the order of their first row."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.system, []).append(row)
    return found


def speech_metrics(rows: Sequence[Row], form: str) -> dict[str, Any]:
    """Corpus-level word error rate of one system: rate as a fraction, counts as integers, and the text form they hold for."""
    errors = word_errors([row.reference for row in rows], [row.text for row in rows], form)
    return {**_counts(errors), "text_form": form}


def text_metrics(rows: Sequence[Row]) -> dict[str, Any]:
    """Perplexity of a word of the references under the LLM alone: exp(-sum of log-probabilities / words)."""
    words = sum(len(row.reference.split()) for row in rows)
    total = sum(row.score for row in rows)
    return {"perplexity": round(math.exp(-total / words), 4), "words": words}


def _counts(errors: WordErrors) -> dict[str, Any]:
    return {"wer": round(errors.wer, 6), "substitutions": errors.substitutions, "deletions": errors.deletions,
            "insertions": errors.insertions, "words": errors.words}  # fmt: skip


def nonspeech_metrics(rows: Sequence[Row]) -> dict[str, Any]:
    """The share of clips to which a system gives any text at all, as a fraction."""
    return {"text_rate": round(sum(bool(row.text.strip()) for row in rows) / len(rows), 6), "clips": len(rows)}


def by_speaker(rows: Sequence[Row], form: str) -> dict[str, dict[str, Any]]:
    """Word errors of one system for each speaker, sorted by name."""
    held: dict[str, list[Row]] = {}
    for row in rows:
        held.setdefault(row.speaker, []).append(row)
    return {
        speaker: _counts(word_errors([row.reference for row in group], [row.text for row in group], form))
        for speaker, group in sorted(held.items())
    }
