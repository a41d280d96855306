"""Prefix beam search of CTC: the likeliest texts of a head, each summed over its paths.

In: log-probabilities of the units at each step of one utterance, and what judges texts beside the
head, if anything does. Out: texts as units, the likeliest of the head first, with natural
logarithms of their probabilities (Hannun et al. 2014, arXiv 1408.2873, algorithm 1). There a
language model scores each word as it ends; here it scores all prefixes together, every few units:
few large batches cost a neural one less. Cost: microseconds for each prefix, step and likely unit,
on one core, beside the judge.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the plan reads the figures below without torch
    import torch

    from components.search.ctc_prefixes import Units

# Units of a step that lengthen a prefix: others are less likely than one in a thousand, and of so
# many at most a search of some dozens of prefixes keeps one.
MIN_LOG_PROBABILITY = -7.0
MAX_UNITS = 12
# Units by which the best prefix grows until the beam is judged again: about four words, in which a
# few dozen prefixes hold every combination of four or five pairs of likely units.
JUDGED_UNITS = 6
# A prefix whose score is so far below the best one is dropped, however few there are: where the
# head is sure, few are kept, and the judge reads few.
MARGIN = 12.0
IMPOSSIBLE = -math.inf

# Scores of prefixes, to be added to the logarithms of their probabilities.
Judge = Callable[[Sequence["Units"]], Sequence[float]]
# Of each prefix: log-probability of the paths that end in the blank, and in its last unit.
Beam = dict["Units", tuple[float, float]]


def list_likely_texts(
    scores: torch.Tensor,
    blank: int,
    width: int,
    judge: Judge | None = None,
    margin: float = MARGIN,
) -> list[tuple[Units, float]]:
    """At most ``width`` texts of ``scores``, (steps, units), and their log-probabilities under the
    head. Of a beam that kept every prefix the figures would be exact; here they are lower.

    ``width`` prefixes are kept at each step: the best by their probability and by the score of
    ``judge``, which a longer prefix has from the one that it grew from until it is judged itself.
    Those that are more than ``margin`` below the best are dropped.
    """
    beam: Beam = {(): (0.0, IMPOSSIBLE)}
    judged: dict[Units, float] = {(): 0.0}
    num_judged = 0  # units of the best prefix when the beam was judged
    count = min(MAX_UNITS, scores.shape[1])
    values, units = (rows.tolist() for rows in scores.double().topk(count, dim=-1))
    for step_values, step_units in zip(values, units, strict=True):
        steps = list(zip(step_units, step_values, strict=True))
        likely = [pair for pair in steps if pair[1] > MIN_LOG_PROBABILITY] or steps[:1]
        longer = _extend(beam, likely, blank)
        judged = {prefix: judged[prefix if prefix in beam else prefix[:-1]] for prefix in longer}
        beam = _keep_best(longer, judged, width, margin)
        num_units = len(next(iter(beam)))
        if judge and num_units >= num_judged + JUDGED_UNITS:
            judged = dict(zip(beam, judge(list(beam)), strict=True))
            num_judged = num_units
    ranked = sorted(beam.items(), key=lambda item: -_add(*item[1]))
    return [(prefix, _add(*ends)) for prefix, ends in ranked]


def _extend(beam: Beam, likely: list[tuple[int, float]], blank: int) -> Beam:
    """The prefixes after one more step, of which ``likely`` are the units and their scores."""
    longer: Beam = defaultdict(lambda: (IMPOSSIBLE, IMPOSSIBLE))

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


def _keep_best(beam: Beam, judged: dict[Units, float], width: int, margin: float) -> Beam:
    scores = {prefix: _add(*ends) + judged[prefix] for prefix, ends in beam.items()}
    worst = max(scores.values()) - margin
    prefixes = [prefix for prefix, score in scores.items() if score >= worst]
    prefixes.sort(key=scores.__getitem__, reverse=True)
    return {prefix: beam[prefix] for prefix in prefixes[:width]}


def _add(first: float, second: float) -> float:
    """log(exp(first) + exp(second))."""
    larger, smaller = max(first, second), min(first, second)
    if smaller == IMPOSSIBLE:
        return larger
    return larger + math.log1p(math.exp(smaller - larger))
