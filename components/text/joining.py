"""Joining the words of two stretches of speech that overlap: each word of the overlap once, none
doubled, none lost.

In: the words of both with their times. Out: how many of the first stay and how many of the second
go. Both heard the overlap, and each may have broken a word at its own edge: the end of the one and
the beginning of the other are aligned (overlap alignment, as sequences of DNA are assembled;
Gusfield 1997, section 11.6.4), and the change from the one to the other is made at a word that both
heard, far from both edges. Cost: the product of the two counts, a dozen words each.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

ALIKE = 0.6  # share of equal letters from which two words pass for one that was heard twice
PAIR, APART = (
    4.0,
    -1.0,
)  # what a pair of equal words counts beside an unequal one, and a word without a partner


@dataclass(frozen=True)
class Word:
    """A word, its seconds from the beginning of the recording, and how sure it is (0 to 1), where
    that is known.
    """

    text: str
    start: float
    end: float
    score: float | None = None

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


def estimate_word_times(text: str, start: float, end: float) -> list[Word]:
    """The words of a text over the seconds from ``start`` to ``end``, each as long as its letters:
    where times are not known.
    """
    words = text.split()
    ends = np.cumsum([0, *(len(word) + 1 for word in words)]) / max(
        1, sum(len(word) + 1 for word in words)
    )
    times = [start + share * (end - start) for share in ends.tolist()]
    return [Word(word, *pair) for word, pair in zip(words, pairwise(times), strict=True)]


def find_joint(
    before: Sequence[Word], after: Sequence[Word], start: float, end: float, tolerance: float
) -> tuple[int, int]:
    """How many words of ``before`` are kept and how many of ``after`` are dropped, where both heard
    the seconds ``start`` to ``end``.

    Two words may be the same where their middles lie within ``tolerance`` seconds: about 0.4 where
    times were measured, more than the overlap lasts where they were estimated. Where the two have
    no word in common, times alone decide, and where one of them heard nothing there, the other's
    words stay.
    """
    first = next(
        (place for place, word in enumerate(before) if word.end > start - tolerance), len(before)
    )
    last = sum(word.start < end + tolerance for word in after)
    pair = _common(before[first:], after[:last], (start + end) / 2, tolerance)
    if pair is not None:
        return first + pair[0] + 1, pair[1] + 1
    if all(word.end <= start for word in before) or all(word.start >= end for word in after):
        return len(before), 0
    middle = (start + end) / 2
    return sum(word.middle <= middle for word in before), sum(
        word.middle <= middle for word in after
    )


def join_words(
    heard: Sequence[Sequence[Word]], shared: Sequence[tuple[float, float] | None], tolerance: float
) -> list[list[Word]]:
    """The words of stretches in their order, each word of an overlap in one of them alone;
    ``shared`` holds the seconds that a stretch has in common with the one before it, None where
    they do not overlap (the first never does).
    """
    made = [list(words) for words in heard]
    for place in range(1, len(made)):
        span = shared[place]
        if span is not None:
            kept, dropped = find_joint(made[place - 1], made[place], *span, tolerance)
            del made[place - 1][kept:], made[place][:dropped]
    return made


def _common(
    before: Sequence[Word], after: Sequence[Word], middle: float, tolerance: float
) -> tuple[int, int] | None:
    """Places of the word that both have, nearest to ``middle``, in the best alignment of an end of
    ``before`` with a beginning of ``after``; None where no two words are alike.
    """
    like = [[_likeness(one, other, tolerance) for other in after] for one in before]
    if max((each for row in like for each in row), default=0.0) < ALIKE:
        return None
    # Of pairs that are equally alike the nearest in time counts most.
    gains = [
        [
            APART
            + (PAIR * each - 1e-3 * min(60, abs(one.middle - other.middle)) if each >= ALIKE else 0)
            for each, other in zip(row, after, strict=True)
        ]
        for row, one in zip(like, before, strict=True)
    ]
    # What stands before the overlap costs nothing; a word of ``after`` there does.
    best = [[APART * place for place in range(len(after) + 1)]]
    for row in gains:
        above, made = best[-1], [0.0]
        for place, gain in enumerate(row):
            made.append(max(above[place] + gain, above[place + 1] + APART, made[place] + APART))
        best.append(made)
    pairs = [
        (i, j) for i, j in _path(best, gains, best[-1].index(max(best[-1]))) if like[i][j] >= ALIKE
    ]
    # A word that both heard alike is a better place than one nearer to the middle that they heard
    # differently.
    return min(
        pairs,
        key=lambda at: (
            -like[at[0]][at[1]],
            abs(before[at[0]].middle + after[at[1]].middle - 2 * middle),
        ),
        default=None,
    )


def _path(best: list[list[float]], gains: list[list[float]], end: int) -> list[tuple[int, int]]:
    """Pairs of the best alignment that ends with the last word of the one and the word before
    ``end`` of the other.
    """
    i, j = len(best) - 1, end
    found = []
    while i and j:
        if best[i][j] == best[i - 1][j - 1] + gains[i - 1][j - 1]:
            i, j = i - 1, j - 1
            found.append((i, j))
        elif best[i][j] == best[i - 1][j] + APART:
            i -= 1
        else:
            j -= 1
    return found


def _likeness(one: Word, other: Word, tolerance: float) -> float:
    """Share of letters that two words have in common, case and punctuation aside; 0 for words that
    lie too far apart.
    """
    if abs(one.middle - other.middle) > tolerance:
        return 0.0
    first, second = (
        word.text.casefold().strip(string.punctuation) or word.text for word in (one, other)
    )
    return (
        1.0
        if first == second
        else difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
    )
