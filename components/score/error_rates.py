"""Scoring as a library call: error rates of any texts, without a workspace and without files.

In: references, hypotheses and, if known, speakers. Out: ``ErrorRates``, with the figures of the
stage ``score`` for the same texts. Cost: about 500,000 reference words a second on one core; in
the form ``whisper`` about 40,000, each text once in a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.config.errors import InputError, nearest
from components.score.insertions import collect_phrases
from components.score.intervals import Interval
from components.score.metrics import ErrorCounts, count_errors
from components.text.forms import ENGLISH, FORMS
from components.text.hypothesis import Hypothesis

Texts = Sequence[str] | Mapping[str, str]  # in one order, or by utterance id


@dataclass(frozen=True)
class ErrorRates:
    """Word and character errors over all utterances; rates are fractions, 0 over no words."""

    wer: float
    interval: Interval | None  # 95 % of the WER; None without resamples or reference words
    substitutions: int
    deletions: int
    insertions: int
    words: int  # of the references
    cer: float
    character_errors: int
    characters: int  # of the references; a space between two words counts
    insertion_kinds: dict[str, int]  # loop, echo, refusal, run-on, other
    text_form: str


def score(
    references: Texts,
    hypotheses: Texts,
    *,
    text_form: str = "casefold",
    language: str = ENGLISH,
    speakers: Texts | None = None,
    resamples: int = 1000,
) -> ErrorRates:
    """Error rates of ``hypotheses`` against ``references``.

    Both are lists in the same order, or both dicts by utterance id; so is ``speakers``.
    ``text_form`` is applied to both sides: ``casefold`` (case only), ``as-is`` (nothing) or
    ``whisper`` (the normaliser of Radford et al. 2022 for ``language``, a tag). ``resamples`` is
    the number of bootstrap resamples of the interval, drawn by speaker, or by utterance if fewer
    than two speakers are known; 0 gives no interval. The draws are the same in every call.

    Raises InputError for an unknown text form, for a negative number of resamples, for a missing or
    unknown id, and if the numbers of texts differ.

    >>> rates = score(["the cat sat", "GOOD morning"], ["the cat the cat sat", "good mourning"])
    >>> rates.wer, rates.substitutions, rates.insertions, rates.words
    (0.6, 1, 2, 5)
    >>> rates.insertion_kinds["loop"]
    2
    >>> score({"a": "yes", "b": "no"}, {"b": "no", "a": "yeah"}, resamples=0).wer
    0.5
    """
    _check_parameters(text_form, resamples)
    ids = list(references) if isinstance(references, Mapping) else None
    reference_list = _in_order("references", references, ids)
    length = len(reference_list)
    hypothesis_list = _in_order("hypotheses", hypotheses, ids, length)
    speaker_list = [""] * length
    if speakers is not None:
        speaker_list = _in_order("speakers", speakers, ids, length)
    pairs = [
        Hypothesis(text, reference=reference, language=language)
        for text, reference in zip(hypothesis_list, reference_list, strict=True)
    ]
    counts = count_errors(pairs, text_form, collect_phrases())
    return _error_rates(counts, counts.interval(speaker_list, resamples), text_form)


def _error_rates(counts: ErrorCounts, interval: Interval | None, text_form: str) -> ErrorRates:
    errors = counts.word_errors()
    return ErrorRates(
        wer=errors.wer,
        interval=interval,
        substitutions=errors.substitutions,
        deletions=errors.deletions,
        insertions=errors.insertions,
        words=errors.words,
        cer=counts.cer,
        character_errors=int(counts.character_errors.sum()),
        characters=int(counts.characters.sum()),
        insertion_kinds=counts.kind_counts(),
        text_form=text_form,
    )


def _check_parameters(text_form: str, resamples: int) -> None:
    if text_form not in FORMS:
        raise InputError(
            f"No text form is called '{text_form}'.",
            subject="text_form",
            hint=nearest(text_form, FORMS),
        )
    if resamples < 0:
        raise InputError(
            f"resamples is {resamples}.",
            subject="resamples",
            hint="Give a number of resamples, or 0 for no interval.",
        )


def _in_order(
    argument: str, texts: Texts, ids: Sequence[str] | None, length: int | None = None
) -> list[str]:
    """The texts as a list: in the order of ``ids`` if the references are a dict."""
    if isinstance(texts, str) or isinstance(texts, Mapping) != (ids is not None):
        raise InputError(
            f"{argument}: not of the same kind as the references.",
            subject=argument,
            hint="Give lists in the same order, or dicts by utterance id.",
        )
    if isinstance(texts, Mapping) and ids is not None:
        wrong_ids = sorted(set(ids) ^ texts.keys())
        if wrong_ids:
            raise InputError(
                f"{argument}: {len(wrong_ids)} ids are missing or unknown, such as "
                f"{wrong_ids[:3]}.",
                subject=wrong_ids[0],
                hint="Give one text for each id of the references.",
            )
        return [texts[utterance_id] for utterance_id in ids]
    if length is not None and len(texts) != length:
        raise InputError(
            f"{argument}: {len(texts)} entries for {length} references.",
            subject=argument,
            hint="Give one entry for each reference, in the same order.",
        )
    return list(texts)
