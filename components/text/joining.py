"""Joining the words of overlapping segments: each word of the overlap once, none doubled, none
lost.

In: the words of both segments with their times. Out: how many words of the first are kept and how
many of the second are dropped. Both segments contain the overlap, and each may have broken a word
at its own edge: the end of the first and the beginning of the second are aligned (overlap
alignment, as DNA sequences are assembled; Gusfield 1997, section 11.6.4), and the change from one
to the other is at a word that both recognised, far from both edges. Cost: the product of the two
counts, a dozen words each.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MIN_SIMILARITY = 0.6  # share of equal letters from which two words count as one recognised twice
PAIR_GAIN = 4.0  # of a pair of equal words in the alignment
GAP_COST = -1.0  # of a word without a partner
MAX_DISTANCE_S = 60  # farther apart, the distance of two words counts no more


@dataclass(frozen=True)
class Word:
    """A word with its times."""

    text: str
    start: float  # seconds from the beginning of the recording
    end: float  # likewise
    score: float | None = None  # confidence, 0 to 1; None: unknown

    @property
    def middle(self) -> float:
        """The time of its middle in seconds."""
        return (self.start + self.end) / 2


def estimate_word_times(text: str, start: float, end: float) -> list[Word]:
    """The words of a text over the seconds from ``start`` to ``end``, each with a share of its
    letters: for a text without known times.
    """
    words = text.split()
    shares = np.cumsum([0, *(len(word) + 1 for word in words)]) / max(
        1, sum(len(word) + 1 for word in words)
    )
    times = [start + share * (end - start) for share in shares.tolist()]
    return [Word(word, *span) for word, span in zip(words, pairwise(times), strict=True)]


def find_joint(
    before: Sequence[Word], after: Sequence[Word], start: float, end: float, tolerance: float
) -> tuple[int, int]:
    """(words of ``before`` that are kept, words of ``after`` that are dropped) of two segments that
    both contain the seconds ``start`` to ``end``.

    Two words may be the same if their middles are within ``tolerance`` seconds: about 0.4 if times
    were measured, more than the overlap lasts if they were estimated. If the two have no word in
    common, times alone decide; if one of them has no word there, the other's words are kept.
    """
    first = next(
        (index for index, word in enumerate(before) if word.end > start - tolerance), len(before)
    )
    last = sum(word.start < end + tolerance for word in after)
    middle = (start + end) / 2
    pair = _find_common_word(before[first:], after[:last], middle, tolerance)
    if pair is not None:
        return first + pair[0] + 1, pair[1] + 1
    if all(word.end <= start for word in before) or all(word.start >= end for word in after):
        return len(before), 0
    return (
        sum(word.middle <= middle for word in before),
        sum(word.middle <= middle for word in after),
    )


def join_words(
    segments: Sequence[Sequence[Word]],
    overlaps: Sequence[tuple[float, float] | None],
    tolerance: float,
) -> list[list[Word]]:
    """The words of the segments in their order, each word of an overlap in one of them alone.

    ``overlaps`` are the (start, end) seconds that a segment shares with the one before it, None if
    they do not overlap (the first never does); ``tolerance`` is that of ``find_joint``.
    """
    joined = [list(words) for words in segments]
    for index in range(1, len(joined)):
        overlap = overlaps[index]
        if overlap is not None:
            num_first, num_dropped = find_joint(
                joined[index - 1], joined[index], *overlap, tolerance
            )
            del joined[index - 1][num_first:], joined[index][:num_dropped]
    return joined


def _find_common_word(
    before: Sequence[Word], after: Sequence[Word], middle: float, tolerance: float
) -> tuple[int, int] | None:
    """Indices of the word that both have, nearest to ``middle``, in the best alignment of an end of
    ``before`` with a beginning of ``after``; None if no two words are similar.
    """
    # (words of before, words of after)
    similarities = [[_similarity(first, second, tolerance) for second in after] for first in before]
    if max((value for row in similarities for value in row), default=0.0) < MIN_SIMILARITY:
        return None
    gains = _pair_gains(before, after, similarities)
    # Words before the overlap cost nothing; a word of ``after`` without a partner does.
    best = [[GAP_COST * column for column in range(len(after) + 1)]]
    for row in gains:
        previous, current = best[-1], [0.0]
        for column, gain in enumerate(row):
            current.append(
                max(
                    previous[column] + gain,
                    previous[column + 1] + GAP_COST,
                    current[column] + GAP_COST,
                )
            )
        best.append(current)
    pairs = [
        (i, j)
        for i, j in _trace_back(best, gains, best[-1].index(max(best[-1])))
        if similarities[i][j] >= MIN_SIMILARITY
    ]
    # A word that both recognised alike is a better joint than one nearer to the middle that they
    # recognised differently.
    return min(
        pairs,
        key=lambda pair: (
            -similarities[pair[0]][pair[1]],
            abs(before[pair[0]].middle + after[pair[1]].middle - 2 * middle),
        ),
        default=None,
    )


def _pair_gains(
    before: Sequence[Word], after: Sequence[Word], similarities: Sequence[Sequence[float]]
) -> list[list[float]]:
    """What each pair of words adds to an alignment; of equally similar pairs the nearest in time
    counts most.
    """
    return [
        [
            GAP_COST
            + (
                PAIR_GAIN * similarity
                - 1e-3 * min(MAX_DISTANCE_S, abs(first.middle - second.middle))
                if similarity >= MIN_SIMILARITY
                else 0
            )
            for similarity, second in zip(row, after, strict=True)
        ]
        for row, first in zip(similarities, before, strict=True)
    ]


def _trace_back(
    best: list[list[float]], gains: list[list[float]], end: int
) -> list[tuple[int, int]]:
    """Index pairs of the best alignment that ends with the last word of ``before`` and the word
    before ``end`` of ``after``.
    """
    i, j = len(best) - 1, end
    pairs = []
    while i and j:
        if best[i][j] == best[i - 1][j - 1] + gains[i - 1][j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif best[i][j] == best[i - 1][j] + GAP_COST:
            i -= 1
        else:
            j -= 1
    return pairs


def _similarity(first: Word, second: Word, tolerance: float) -> float:
    """Share of letters that two words have in common, regardless of case and punctuation; 0 for
    words that are too far from each other in time.
    """
    if abs(first.middle - second.middle) > tolerance:
        return 0.0
    first_text, second_text = (
        word.text.casefold().strip(string.punctuation) or word.text for word in (first, second)
    )
    return (
        1.0
        if first_text == second_text
        else difflib.SequenceMatcher(None, first_text, second_text, autojunk=False).ratio()
    )
