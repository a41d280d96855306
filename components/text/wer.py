"""Word and character errors of a set, counted by jiwer and rapidfuzz: sum of errors / sum of
reference words (characters).

In: references and hypotheses, pair by pair, and the text form in which both are compared. Out: the
errors of each pair, or of all. A reference may be empty (non-speech, or a form that drops all of
it): every hypothesis word is then an insertion. jiwer counts such pairs but has no rate of them
alone; they are counted here.
Cost: about 400,000 reference words a second, characters ten times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.text.forms import ENGLISH, UNSPACED, normalise, primary_language


@dataclass(frozen=True)
class WordErrors:
    """Counts over a pair or a set; they add up."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0  # of the reference

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Word error rate, a fraction; 0 over no reference words.

        >>> (WordErrors(insertions=1, words=4) + WordErrors(deletions=1, words=4)).wer
        0.25
        """
        return self.errors / self.words if self.words else 0.0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


@dataclass(frozen=True)
class Alignment:
    """A pair under an alignment with the fewest errors (Levenshtein; if there are several, the one
    that rapidfuzz returns).
    """

    errors: WordErrors
    inserted: tuple[int, ...] = ()  # positions of the inserted words in the hypothesis
    # position in the hypothesis after the last word that equals its reference word; 0: none does
    matched: int = 0


def normalise_pairs(
    references: Sequence[str],
    hypotheses: Sequence[str],
    form: str,
    languages: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """Both sides of each pair in ``form``; ``languages`` are those of the pairs, by default
    English.

    Raises ValueError if there are not as many references as hypotheses.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references against {len(hypotheses)} hypotheses")
    return [
        (normalise(reference, form, language), normalise(hypothesis, form, language))
        for reference, hypothesis, language in zip(
            references, hypotheses, languages or [ENGLISH] * len(references), strict=True
        )
    ]


def align_pairs(
    references: Sequence[str],
    hypotheses: Sequence[str],
    form: str,
    languages: Sequence[str] | None = None,
) -> list[Alignment]:
    """The alignment of each pair, both sides in ``form``; languages and errors as of
    ``normalise_pairs``.
    """
    pairs = normalise_pairs(references, hypotheses, form, languages)
    speech_pairs = [pair for pair in pairs if pair[0]]
    alignments = iter(_align(speech_pairs) if speech_pairs else ())
    return [
        next(alignments) if reference else _align_with_empty(hypothesis)
        for reference, hypothesis in pairs
    ]


def _align_with_empty(hypothesis: str) -> Alignment:
    """The alignment with an empty reference: every word is inserted."""
    num_words = len(hypothesis.split())
    return Alignment(WordErrors(insertions=num_words), tuple(range(num_words)))


def _align(pairs: Sequence[tuple[str, str]]) -> list[Alignment]:
    import jiwer

    output = jiwer.process_words([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return [
        _from_chunks(chunks, len(words))
        for chunks, words in zip(output.alignments, output.references, strict=True)
    ]


def _from_chunks(chunks: Sequence[Any], num_words: int) -> Alignment:
    """The alignment of jiwer's chunks of a pair with ``num_words`` reference words."""
    substitutions = deletions = matched = 0
    inserted: list[int] = []
    for chunk in chunks:
        if chunk.type == "equal":
            matched = chunk.hyp_end_idx
        elif chunk.type == "substitute":
            substitutions += chunk.ref_end_idx - chunk.ref_start_idx
        elif chunk.type == "delete":
            deletions += chunk.ref_end_idx - chunk.ref_start_idx
        else:
            inserted += range(chunk.hyp_start_idx, chunk.hyp_end_idx)
    errors = WordErrors(substitutions, deletions, len(inserted), num_words)
    return Alignment(errors, tuple(inserted), matched)


def count_pair_errors(
    references: Sequence[str], hypotheses: Sequence[str], form: str
) -> list[WordErrors]:
    """Errors of each pair; raises as ``align_pairs``."""
    return [alignment.errors for alignment in align_pairs(references, hypotheses, form)]


def count_word_errors(
    references: Sequence[str], hypotheses: Sequence[str], form: str
) -> WordErrors:
    """Errors of ``hypotheses`` against ``references`` over all pairs, both in ``form``; raises as
    ``align_pairs``.
    """
    return sum(count_pair_errors(references, hypotheses, form), WordErrors())


def compute_wer(
    references: Sequence[str],
    hypotheses: Sequence[str],
    form: str,
    languages: Sequence[str] | None = None,
) -> float:
    """The rate of ``count_word_errors`` alone, not which errors they are, in a fifth of its time;
    languages and errors as of ``normalise_pairs``.
    """
    from rapidfuzz.distance import Levenshtein

    pairs = [
        (reference.split(), hypothesis.split())
        for reference, hypothesis in normalise_pairs(references, hypotheses, form, languages)
    ]
    num_words = sum(len(reference) for reference, _ in pairs)
    num_errors = sum(Levenshtein.distance(reference, hypothesis) for reference, hypothesis in pairs)
    return num_errors / num_words if num_words else 0.0


def count_character_errors(
    references: Sequence[str],
    hypotheses: Sequence[str],
    form: str,
    languages: Sequence[str] | None = None,
) -> list[tuple[int, int]]:
    """(errors, reference characters) of each pair: the Levenshtein distance of the texts in
    ``form``; languages and errors as of ``normalise_pairs``.

    A single space between two words counts as a character, as in jiwer and most published figures,
    unless the language is written without spaces: then none counts.
    """
    from rapidfuzz.distance import Levenshtein

    pairs = normalise_pairs(references, hypotheses, form, languages)
    for index, language in enumerate(languages or ()):
        if primary_language(language) in UNSPACED:
            reference, hypothesis = pairs[index]
            pairs[index] = reference.replace(" ", ""), hypothesis.replace(" ", "")
    return [
        (Levenshtein.distance(reference, hypothesis), len(reference))
        for reference, hypothesis in pairs
    ]
