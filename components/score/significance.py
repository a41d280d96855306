"""Significance of the difference between two systems on the same utterances.

In: errors of two systems, reference words and speakers, one entry an utterance. Out: the difference
of their word error rates (the second minus the first, so that a negative value means that the
second is better) with two tests:

- Paired bootstrap (Bisani and Ney 2004): both systems on the same resampled speakers. Results: the
  share of resamples in which the second system is better, the interval of the difference, and a
  p-value from how often the sign of the difference changes.
- Matched pairs (Gillick and Cox 1989, "Some statistical issues in the comparison of speech
  recognition algorithms"): the mean of the differences of error counts over its standard error,
  normally distributed for many utterances. The segments of the paper are utterances here. If few
  utterances differ, the normal distribution is too optimistic, so all sign flips are counted
  instead (Fisher's randomisation test), which is exact for any number.

The second test assumes that utterances are independent. If speakers differ much, trust the first.
Cost: that of an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.score.intervals import SEED, assign_blocks, bootstrap_rates, percentile_interval

MAX_EXACT = 50  # utterances that differ, up to which the matched-pairs test is exact
ALPHA = 0.05  # a difference with a smaller p-value is significant


@dataclass(frozen=True)
class SystemComparison:
    """The second system compared with the first; rates are fractions, p-values two-sided."""

    difference: float  # of the word error rates
    low: float  # ends of the 95 % interval of the difference
    high: float
    # Share of resamples in which the second system has the lower rate; ties count half.
    better: float
    bootstrap_p: float
    matched_p: float
    by: str  # what was resampled: speaker or utterance

    @property
    def is_significant(self) -> bool:
        """Whether the p-value of the matched-pairs test is below ``ALPHA``."""
        return self.matched_p < ALPHA


def compare(
    first: np.ndarray,
    second: np.ndarray,
    words: np.ndarray,
    speakers: Sequence[str],
    resamples: int,
    seed: int = SEED,
) -> SystemComparison:
    """Both tests for the error counts of two systems, (utterances,) as ``words``.

    Without resamples the results of the bootstrap are nan. Raises ValueError if the lengths differ
    or there is no reference word.
    """
    if not len(first) == len(second) == len(words) == len(speakers) or not words.sum():
        raise ValueError(
            f"{len(first)} and {len(second)} error counts, {len(words)} utterances of "
            f"{words.sum()} words"
        )
    matched_p = matched_pairs(first, second)
    difference = float((second.sum() - first.sum()) / words.sum())
    if not resamples:
        by = assign_blocks(speakers)[1]
        return SystemComparison(difference, math.nan, math.nan, math.nan, math.nan, matched_p, by)
    differences, by = bootstrap_rates(np.stack([second - first, words]), speakers, resamples, seed)
    low, high = percentile_interval(differences)
    better = float(np.mean(differences < 0) + np.mean(differences == 0) / 2)
    # One is added to numerator and denominator: no number of resamples shows a probability of zero
    # (Davison and Hinkley 1997).
    num_opposite = int(min((differences <= 0).sum(), (differences >= 0).sum()))
    bootstrap_p = min(1.0, 2 * (num_opposite + 1) / (len(differences) + 1))
    return SystemComparison(difference, low, high, better, bootstrap_p, matched_p, by)


def matched_pairs(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of the matched-pairs test for error counts (utterances,); 1 if no utterance
    differs.
    """
    differences = np.asarray(second, dtype=np.int64) - np.asarray(first, dtype=np.int64)
    if np.count_nonzero(differences) <= MAX_EXACT:
        return _exact_p(differences)
    deviation = differences.std(ddof=1)
    if not deviation:
        return 0.0  # all of more than MAX_EXACT utterances differ by the same number
    return math.erfc(
        abs(differences.mean()) / (deviation / math.sqrt(len(differences))) / math.sqrt(2)
    )


def _exact_p(differences: np.ndarray) -> float:
    """Share of the sign flips whose sum is at least as far from 0 as the sum of ``differences``.

    The distribution of the sum is computed by adding one utterance at a time.
    """
    sizes = [int(size) for size in np.abs(differences) if size]
    max_sum = sum(sizes)
    probabilities = np.zeros(2 * max_sum + 1)  # of the sums from -max_sum to max_sum
    probabilities[max_sum] = 1.0
    for size in sizes:
        # Nothing wraps around: only all utterances together reach the ends.
        probabilities = (np.roll(probabilities, size) + np.roll(probabilities, -size)) / 2
    sums = np.arange(-max_sum, max_sum + 1)
    return min(1.0, float(probabilities[np.abs(sums) >= abs(differences.sum())].sum()))
