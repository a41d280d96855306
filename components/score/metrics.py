"""The numbers of a set: word and character errors of each system with intervals and kinds of
inserted words, by form; parts of it by length and language; on non-speech which clips give text,
and how much of it.

In: rows of one system, in the order of the utterances. Out: plain figures; rates are fractions,
rounded to six digits. Cost: about 10 s for a million reference words once their Whisper form is
there (``components.text.forms.prepare``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from components.config.errors import InputError
from components.score.insertions import (
    CLIP_KINDS,
    FORM,
    KINDS,
    EchoPhrases,
    kind_of_clip,
    kinds_of_words,
    main_kind,
)
from components.score.intervals import interval
from components.score.systems import AGAIN
from components.text.forms import FORMS
from components.text.hypothesis import Hypothesis
from components.text.wer import align_pairs, compute_wer, count_character_errors

ERRORS = ("substitutions", "deletions", "insertions")
EDGES = (2, 5, 10, 20, 30)  # seconds; an utterance at an edge belongs to the longer ones
DURATIONS = ("<2", "2–5", "5–10", "10–20", "20–30", ">30")  # seconds


@dataclass(frozen=True, eq=False)
class Counts:
    """One system over a set: arrays of int64 [utterances], and the kind of each inserted word of an
    utterance.
    """

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    words: np.ndarray
    character_errors: np.ndarray
    characters: np.ndarray
    kinds: list[list[str]]

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.deletions + self.insertions

    def figures(self, at: Any = slice(None)) -> dict[str, Any]:
        """Word error rate and the counts behind it over the utterances ``at`` (an index of arrays);
        0 over no words.
        """
        words = int(self.words[at].sum())
        rate = round(float(self.errors[at].sum()) / words, 6) if words else 0.0
        return {
            "wer": rate,
            **{each: int(getattr(self, each)[at].sum()) for each in ERRORS},
            "words": words,
        }


def count(rows: Sequence[Hypothesis], form: str, known: EchoPhrases) -> Counts:
    """Counts of one system in a text form; ``known`` are the phrases by which kinds of inserted
    words are told apart.
    """
    references, texts = [row.reference for row in rows], [row.text for row in rows]
    found = align_pairs(references, texts, form)
    substitutions, deletions, insertions, words = (
        np.array([astuple(each.errors) for each in found], dtype=np.int64).reshape(-1, 4).T
    )
    wrong, characters = (
        np.array(count_character_errors(references, texts, form), dtype=np.int64).reshape(-1, 2).T
    )
    plain = found if form == FORM else align_pairs(references, texts, FORM)
    kinds = [
        kinds_of_words(row.reference, row.text, each, known)
        for row, each in zip(rows, plain, strict=True)
    ]
    return Counts(substitutions, deletions, insertions, words, wrong, characters, kinds)


def speech_metrics(
    rows: Sequence[Hypothesis], counts: Counts, form: str, resamples: int
) -> dict[str, Any]:
    """Figures of one system over a set: word error rate with its 95 % interval (where ``resamples``
    is not 0 and there are reference words), errors, character error rate, the rate in every text
    form, and inserted words by kind.
    """
    references, texts = [row.reference for row in rows], [row.text for row in rows]
    own = counts.figures()
    forms = {
        name: own["wer"] if name == form else round(compute_wer(references, texts, name), 6)
        for name in FORMS
    }
    characters = int(counts.characters.sum())
    cer = round(float(counts.character_errors.sum()) / characters, 6) if characters else 0.0
    kinds = Counter(kind for each in counts.kinds for kind in each)
    return {
        **own,
        **bounds(counts, rows, resamples),
        "cer": cer,
        "text_form": form,
        "forms": forms,
        "insertion_kinds": {kind: kinds[kind] for kind in KINDS},
    }


def bounds(
    counts: Counts, rows: Sequence[Hypothesis], resamples: int, at: Any = slice(None)
) -> dict[str, Any]:
    """Ends of the interval over the utterances ``at``, and what was resampled; empty where there is
    none.
    """
    speakers = [rows[each].speaker for each in np.arange(len(rows))[at]]
    found = interval(counts.errors[at], counts.words[at], speakers, resamples)
    return (
        {"wer_low": round(found.low, 6), "wer_high": round(found.high, 6), "interval_by": found.by}
        if found
        else {}
    )


def text_metrics(rows: Sequence[Hypothesis]) -> dict[str, Any]:
    """Perplexity of a word of the references under the LLM alone: exp(-sum of log-probabilities /
    words); none over no words.

    Raises InputError for an utterance without a log-probability, and where the perplexity is more
    than a number can say.
    """
    words = sum(len(row.reference.split()) for row in rows)
    wrong = next((row for row in rows if not math.isfinite(row.score)), None)
    if wrong is not None:
        raise InputError(
            f"The LLM alone gives '{wrong.utterance_id}' the log-probability {wrong.score}.",
            subject=wrong.utterance_id,
            hint=AGAIN,
        )
    if not words:
        return {"words": 0}
    try:
        return {
            "perplexity": round(math.exp(-sum(row.score for row in rows) / words), 4),
            "words": words,
        }
    except OverflowError:
        raise InputError(
            "The perplexity of a word is above all numbers: are words apart by spaces in this "
            "language?",
            subject="decode.perplexity",
            hint="Set decode.perplexity to false.",
        ) from None


def clip_kinds(rows: Sequence[Hypothesis], known: EchoPhrases) -> list[str]:
    """The kind of text of each clip of non-speech; empty where there is none."""
    return [kind_of_clip(row.reference, row.text, known) for row in rows]


def nonspeech_metrics(rows: Sequence[Hypothesis], kinds: Sequence[str]) -> dict[str, Any]:
    """The share of clips to which a system gives any text at all, its characters a minute of audio
    (white space within it counts once), and those clips by the kind of their text.
    """
    characters, minutes = (
        sum(len(" ".join(row.text.split())) for row in rows),
        sum(row.duration_s for row in rows) / 60,
    )
    counts = Counter(kinds)
    return {
        "text_rate": round(sum(map(bool, kinds)) / len(rows), 6),
        "clips": len(rows),
        "characters_a_minute": round(characters / minutes, 4) if minutes else 0.0,
        "insertion_kinds": {kind: counts[kind] for kind in CLIP_KINDS},
    }


def by_group(labels: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each label, sorted, with the positions of its utterances."""
    names, held = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return ((str(name), np.flatnonzero(held == number)) for number, name in enumerate(names))


def kinds_of_utterances(counts: Counts) -> list[str]:
    """The main kind of the inserted words of each utterance; empty where none is inserted."""
    return [main_kind(each) for each in counts.kinds]


def duration(seconds: float) -> str:
    """The bucket of an utterance's length."""
    return DURATIONS[bisect_right(EDGES, seconds)]


def groups(rows: Sequence[Hypothesis], counts: Counts, resamples: int) -> Iterator[tuple[Any, ...]]:
    """(by, group, rate, low, high, substitutions, deletions, insertions, words) of the parts of a
    set that have utterances: by duration, short ones first, and by language where any is known. The
    groups of one kind add up to the set.

    Each has an interval over its own speakers (empty where there is none): wide, or saying nothing,
    where utterances are few.
    """
    kinds = {
        "duration": [duration(row.duration_s) for row in rows],
        "language": [row.language for row in rows],
    }
    for kind, labels in kinds.items():
        found = dict(by_group(labels)) if any(labels) else {}
        for label in (each for each in DURATIONS if each in found) if kind == "duration" else found:
            rate, *errors = counts.figures(found[label]).values()
            ends = bounds(counts, rows, resamples, found[label])
            yield (kind, label, rate, ends.get("wer_low", ""), ends.get("wer_high", ""), *errors)
