"""Prefix beam search of CTC: the likeliest texts of a head, each summed over its paths.

In: log-probabilities of the units at each step of one utterance. Out: texts as units, best first,
with natural logarithms of their probabilities (Hannun et al. 2014, arXiv 1408.2873, algorithm 1,
without a language model). Cost: microseconds for each prefix, step and likely unit, on one core.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from components.search.ctc_prefixes import Units

# Units of a step that lengthen a prefix: others are less likely than one in a thousand, and of so
# many at most a search of some dozens of prefixes keeps one.
MIN_LOG_PROBABILITY = -7.0
MAX_UNITS = 12
IMPOSSIBLE = -math.inf


def list_likely_texts(scores: torch.Tensor, blank: int, width: int) -> list[tuple[Units, float]]:
    """At most ``width`` texts of ``scores``, (steps, units), and their log-probabilities. Of a
    beam that kept every prefix the figures would be exact; here they are lower.
    """
    # Of each prefix: log-probability of the paths that end in the blank, and in its last unit.
    beam: dict[Units, tuple[float, float]] = {(): (0.0, IMPOSSIBLE)}
    count = min(MAX_UNITS, scores.shape[1])
    values, units = (rows.tolist() for rows in scores.double().topk(count, dim=-1))
    for step_values, step_units in zip(values, units, strict=True):
        steps = list(zip(step_units, step_values, strict=True))
        likely = [pair for pair in steps if pair[1] > MIN_LOG_PROBABILITY] or steps[:1]
        beam = _keep_best(_extend(beam, likely, blank), width)
    ranked = sorted(beam.items(), key=lambda item: -_add(*item[1]))
    return [(prefix, _add(*ends)) for prefix, ends in ranked]


def _extend(
    beam: dict[Units, tuple[float, float]], likely: list[tuple[int, float]], blank: int
) -> dict[Units, tuple[float, float]]:
    """The prefixes after one more step, of which ``likely`` are the units and their scores."""
    longer: dict[Units, tuple[float, float]] = defaultdict(lambda: (IMPOSSIBLE, IMPOSSIBLE))

    def add(
        prefix: Units, *, after_blank: float = IMPOSSIBLE, after_unit: float = IMPOSSIBLE
    ) -> None:
        if max(after_blank, after_unit) == IMPOSSIBLE:
            return
        ends = longer[prefix]
        longer[prefix] = (_add(ends[0], after_blank), _add(ends[1], after_unit))

    for prefix, (in_blank, in_unit) in beam.items():
        both = _add(in_blank, in_unit)
        for unit, score in likely:
            if unit == blank:
                add(prefix, after_blank=both + score)
            elif prefix[-1:] == (unit,):  # the same again, or once more after a blank
                add(prefix, after_unit=in_unit + score)
                add((*prefix, unit), after_unit=in_blank + score)
            else:
                add((*prefix, unit), after_unit=both + score)
    return longer


def _keep_best(
    beam: dict[Units, tuple[float, float]], width: int
) -> dict[Units, tuple[float, float]]:
    ranked = sorted(beam.items(), key=lambda item: -_add(*item[1]))
    return dict(ranked[:width])


def _add(first: float, second: float) -> float:
    """log(exp(first) + exp(second))."""
    larger, smaller = max(first, second), min(first, second)
    if smaller == IMPOSSIBLE:
        return larger
    return larger + math.log1p(math.exp(smaller - larger))
