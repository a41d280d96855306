"""The figures of a set: word and character errors of a system with intervals and kinds of inserted
words, in each text form; parts of the set by duration and language; text on non-speech.

In: hypotheses of one system, in the order of the utterances. Out: plain figures; rates are
fractions, rounded to six digits. Cost: about 10 s for a million reference words if their Whisper
form is in memory (``components.text.forms.prepare``).
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
    LlmPhrases,
    kind_of_clip,
    kinds_of_words,
    main_kind,
)
from components.score.intervals import Interval, error_rate_interval
from components.text.forms import FORMS
from components.text.hypothesis import Hypothesis
from components.text.wer import WordErrors, align_pairs, compute_wer, count_character_errors

EDGES = (2, 5, 10, 20, 30)  # seconds; an utterance at an edge belongs to the longer ones
DURATIONS = ("<2", "2–5", "5–10", "10–20", "20–30", ">30")  # seconds
REDECODE = "Run 'dvc repro -f decode'."
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """The errors of one system over a set: int64 arrays (utterances,), and for each utterance the
    kinds of its inserted words.
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
        """Word errors of each utterance, (utterances,)."""
        errors: np.ndarray = self.substitutions + self.deletions + self.insertions
        return errors

    @property
    def cer(self) -> float:
        """Character errors over reference characters, a fraction; 0 over no characters."""
        characters = int(self.characters.sum())
        return float(self.character_errors.sum()) / characters if characters else 0.0

    def word_errors(self, index: Any = ALL) -> WordErrors:
        """The sums over the utterances ``index`` (an index of arrays)."""
        counts = (self.substitutions, self.deletions, self.insertions, self.words)
        return WordErrors(*(int(count[index].sum()) for count in counts))

    def figures(self, index: Any = ALL) -> dict[str, Any]:
        """Word error rate and the counts behind it over the utterances ``index``; rate 0 over no
        words.
        """
        errors = self.word_errors(index)
        return {
            "wer": round(errors.wer, 6),
            "substitutions": errors.substitutions,
            "deletions": errors.deletions,
            "insertions": errors.insertions,
            "words": errors.words,
        }

    def interval(
        self, speakers: Sequence[str], resamples: int, index: Any = ALL
    ) -> Interval | None:
        """The 95 % interval of the word error rate over the utterances ``index``; ``speakers`` has
        all utterances. None without resamples or reference words.
        """
        selected = [speakers[position] for position in np.arange(len(speakers))[index]]
        return error_rate_interval(self.errors[index], self.words[index], selected, resamples)

    def main_kinds(self) -> list[str]:
        """The main kind of the inserted words of each utterance; empty if there are none."""
        return [main_kind(kinds) for kinds in self.kinds]

    def kind_counts(self) -> dict[str, int]:
        """The number of inserted words of each kind; they add up to the insertions in the form
        ``components.score.insertions.FORM``.
        """
        counts = Counter(kind for kinds in self.kinds for kind in kinds)
        return {kind: counts[kind] for kind in KINDS}


def count_errors(hypotheses: Sequence[Hypothesis], form: str, phrases: LlmPhrases) -> ErrorCounts:
    """The errors of one system in a text form, which depends on the language of an utterance;
    ``phrases`` mark the kinds of inserted words.
    """
    references = [hypothesis.reference for hypothesis in hypotheses]
    texts = [hypothesis.text for hypothesis in hypotheses]
    languages = [hypothesis.language for hypothesis in hypotheses]
    aligned = align_pairs(references, texts, form, languages)
    substitutions, deletions, insertions, words = (
        np.array([astuple(alignment.errors) for alignment in aligned], dtype=np.int64)
        .reshape(-1, 4)
        .T
    )
    wrong_characters, characters = (
        np.array(count_character_errors(references, texts, form, languages), dtype=np.int64)
        .reshape(-1, 2)
        .T
    )
    aligned_for_kinds = aligned
    if form != FORM:
        aligned_for_kinds = align_pairs(references, texts, FORM, languages)
    kinds = [
        kinds_of_words(reference, text, alignment, phrases)
        for reference, text, alignment in zip(references, texts, aligned_for_kinds, strict=True)
    ]
    return ErrorCounts(
        substitutions, deletions, insertions, words, wrong_characters, characters, kinds
    )


def speech_metrics(
    hypotheses: Sequence[Hypothesis], counts: ErrorCounts, form: str, resamples: int
) -> dict[str, Any]:
    """Figures of one system over a set: word error rate with its 95 % interval (if ``resamples`` is
    not 0 and there are reference words), errors, character error rate, the rate in every text form,
    inserted words by kind, and the number of hypotheses that met the limit of their length.
    """
    references = [hypothesis.reference for hypothesis in hypotheses]
    texts = [hypothesis.text for hypothesis in hypotheses]
    languages = [hypothesis.language for hypothesis in hypotheses]
    figures = counts.figures()
    forms = {
        name: figures["wer"]
        if name == form
        else round(compute_wer(references, texts, name, languages), 6)
        for name in FORMS
    }
    speakers = [hypothesis.speaker for hypothesis in hypotheses]
    return {
        **figures,
        **_interval_figures(counts.interval(speakers, resamples)),
        "cer": round(counts.cer, 6),
        "text_form": form,
        "forms": forms,
        "insertion_kinds": counts.kind_counts(),
        "at_limit": count_at_limit(hypotheses),
    }


def _interval_figures(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {}
    return {
        "wer_low": round(interval.low, 6),
        "wer_high": round(interval.high, 6),
        "interval_by": interval.by,
    }


def llm_metrics(hypotheses: Sequence[Hypothesis]) -> dict[str, Any]:
    """Perplexity of a word of the references under the LLM alone: exp(-sum of log-probabilities /
    words); no perplexity over no words.

    Raises InputError for an utterance without a log-probability, and if the perplexity exceeds the
    range of a float.
    """
    words = sum(len(hypothesis.reference.split()) for hypothesis in hypotheses)
    for hypothesis in hypotheses:
        if not math.isfinite(hypothesis.score):
            raise InputError(
                f"The log-probability of '{hypothesis.utterance_id}' under the LLM alone is "
                f"{hypothesis.score}.",
                subject=hypothesis.utterance_id,
                hint=REDECODE,
            )
    if not words:
        return {"words": 0}
    try:
        perplexity = math.exp(-sum(hypothesis.score for hypothesis in hypotheses) / words)
    except OverflowError:
        raise InputError(
            "The perplexity of a word exceeds the range of a float: are words separated by spaces "
            "in this language?",
            subject="decode.perplexity",
            hint="Set decode.perplexity to false.",
        ) from None
    return {"perplexity": round(perplexity, 4), "words": words}


def clip_kinds(hypotheses: Sequence[Hypothesis], phrases: LlmPhrases) -> list[str]:
    """The kind of text of each clip of non-speech; empty if it has no text."""
    return [
        kind_of_clip(hypothesis.reference, hypothesis.text, phrases) for hypothesis in hypotheses
    ]


def nonspeech_metrics(hypotheses: Sequence[Hypothesis], kinds: Sequence[str]) -> dict[str, Any]:
    """The share of clips with any text, characters a minute of audio (a run of white space counts
    as one), the number of clips by kind of their text, and of those at the limit of length.
    """
    characters = sum(len(" ".join(hypothesis.text.split())) for hypothesis in hypotheses)
    minutes = sum(hypothesis.duration_s for hypothesis in hypotheses) / 60
    counts = Counter(kinds)
    return {
        "text_rate": round(sum(map(bool, kinds)) / len(hypotheses), 6),
        "clips": len(hypotheses),
        "characters_a_minute": round(characters / minutes, 4) if minutes else 0.0,
        "insertion_kinds": {kind: counts[kind] for kind in CLIP_KINDS},
        "at_limit": count_at_limit(hypotheses),
    }


def count_at_limit(hypotheses: Sequence[Hypothesis]) -> int:
    """How many hypotheses met the limit of their length and may be cut off."""
    return sum(hypothesis.at_limit for hypothesis in hypotheses)


def positions_by_label(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The indices of the utterances with each label; labels in alphabetical order."""
    names, inverse = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return {str(name): np.flatnonzero(inverse == index) for index, name in enumerate(names)}


def duration_label(duration_s: float) -> str:
    """The bucket of an utterance's duration.

    >>> duration_label(1.9), duration_label(2), duration_label(45)
    ('<2', '2–5', '>30')
    """
    return DURATIONS[bisect_right(EDGES, duration_s)]


def group_rows(
    hypotheses: Sequence[Hypothesis], counts: ErrorCounts, resamples: int
) -> Iterator[tuple[Any, ...]]:
    """(by, group, rate, low, high, substitutions, deletions, insertions, words) of the parts of a
    set: by duration, short ones first, and by language if any is known.

    Groups without utterances are left out. The groups of one kind add up to the set. ``low`` and
    ``high`` are the interval over the group's own speakers (empty if there is none); with few
    utterances it is wide, or has no information.
    """
    speakers = [hypothesis.speaker for hypothesis in hypotheses]
    by_duration = positions_by_label(
        [duration_label(hypothesis.duration_s) for hypothesis in hypotheses]
    )
    languages = [hypothesis.language for hypothesis in hypotheses]
    by_language = positions_by_label(languages) if any(languages) else {}
    groups = [
        ("duration", label, by_duration[label]) for label in DURATIONS if label in by_duration
    ]
    groups += [("language", label, positions) for label, positions in by_language.items()]
    for by, label, positions in groups:
        rate, *errors = counts.figures(positions).values()
        bounds = _interval_figures(counts.interval(speakers, resamples, positions))
        yield (by, label, rate, bounds.get("wer_low", ""), bounds.get("wer_high", ""), *errors)
