"""Whether one system is better than another on the same utterances, or the difference is chance.

In: errors of two systems, reference words and speakers, utterance by utterance. Out: the difference
of their word error rates (the second minus the first, so that less than 0 means that the second is
better) with two tests:

- paired bootstrap (Bisani and Ney 2004): both systems on the same resampled speakers; the share of resamples in which
  the second is better, the interval of the difference, and a p-value from how often its sign turns;
- matched pairs (Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms"): the mean of
  the differences of error counts over its standard error, normal for many utterances. Utterances are the segments here. With few
  that differ the normal curve promises too much, so all flips of their signs are counted instead (Fisher's randomisation), which
  is exact for any number.

The second test takes utterances for independent; where speakers differ much, trust the first. Cost:
as an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.score.intervals import LEVEL, SEED, blocks_of, resampled, sums_by_block

FEW = 50  # utterances that differ; up to here the matched-pairs test is exact
ALPHA = 0.05  # a p-value below it is marked


@dataclass(frozen=True)
class Comparison:
    """The second system against the first; rates are fractions, p-values two-sided."""

    difference: float  # of the word error rates
    low: float
    high: float
    # share of resamples in which the second has the lower rate; those in which they are equal count
    # half
    better: float
    bootstrap_p: float
    matched_p: float
    by: str  # what was resampled: speaker or utterance

    @property
    def significant(self) -> bool:
        """Whether the matched-pairs test says so."""
        return self.matched_p < ALPHA


def compare(
    first: np.ndarray,
    second: np.ndarray,
    words: np.ndarray,
    speakers: Sequence[str],
    resamples: int,
    seed: int = SEED,
) -> Comparison:
    """Both tests for error counts [utterances] of two systems. Without resamples the figures of the
    bootstrap are nan.

    Raises ValueError where the lengths differ or there is no reference word.
    """
    if not len(first) == len(second) == len(words) == len(speakers) or not words.sum():
        raise ValueError(
            f"{len(first)} and {len(second)} error counts, {len(words)} utterances of "
            f"{words.sum()} words"
        )
    matched = matched_pairs(first, second)
    difference = float((second.sum() - first.sum()) / words.sum())
    blocks, by = blocks_of(speakers)
    if not resamples:
        return Comparison(difference, math.nan, math.nan, math.nan, math.nan, matched, by)
    sums = sums_by_block(blocks, np.stack([second - first, words]))
    drawn = np.concatenate(list(resampled(sums, resamples, seed)), axis=-1)
    found = drawn[0][drawn[1] > 0] / drawn[1][drawn[1] > 0]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    better = float(np.mean(found < 0) + np.mean(found == 0) / 2)
    # One is added to both sides of the share: no number of resamples shows that a chance is zero
    # (Davison and Hinkley 1997).
    turned = int(min((found <= 0).sum(), (found >= 0).sum()))
    return Comparison(
        difference,
        float(low),
        float(high),
        better,
        min(1.0, 2 * (turned + 1) / (len(found) + 1)),
        matched,
        by,
    )


def matched_pairs(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of the matched-pairs test for error counts [utterances]; 1 where no
    utterance differs.
    """
    differences = np.asarray(second, dtype=np.int64) - np.asarray(first, dtype=np.int64)
    if np.count_nonzero(differences) <= FEW:
        return _by_signs(differences)
    deviation = differences.std(ddof=1)
    if not deviation:
        return 0.0  # every one of many utterances differs by the same: no chance does that
    return math.erfc(
        abs(differences.mean()) / (deviation / math.sqrt(len(differences))) / math.sqrt(2)
    )


def _by_signs(differences: np.ndarray) -> float:
    """Share of the flips of signs whose sum lies as far from 0: by adding one utterance at a time
    to the chance of each sum.
    """
    sizes = [int(each) for each in np.abs(differences) if each]
    reach = sum(sizes)
    chances = np.zeros(2 * reach + 1)  # of the sums from -reach to reach
    chances[reach] = 1.0
    for size in sizes:
        chances = (
            np.roll(chances, size) + np.roll(chances, -size)
        ) / 2  # nothing wraps: the ends are reached by all together only
    sums = np.arange(-reach, reach + 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(differences.sum())].sum()))
