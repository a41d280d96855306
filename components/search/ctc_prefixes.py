"""Prefix scores of CTC: the probability that the text of an utterance begins with some units.

In: log-probabilities of the units at each step of one utterance. Out: natural logarithms of
probabilities that are summed over all CTC paths. They are those of joint CTC/attention decoding
(Hori, Watanabe, Hershey 2017, arXiv 1706.02737, section 3.1; Watanabe et al. 2017, algorithm 2).
Cost: two cumulative sums over the steps for each new unit, for many prefixes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LOG_ZERO = -1e10  # in place of minus infinity, of which differences are not defined

Units = tuple[int, ...]


@dataclass(frozen=True)
class PrefixPaths:
    """The paths of one prefix; position t of a row is after t steps, so a row has steps + 1."""

    unit: torch.Tensor  # log-probability of paths that end in the last unit, (steps + 1,)
    blank: torch.Tensor  # of those that end in the blank, (steps + 1,)
    log_probability: float  # that the text begins with the prefix


class CtcPrefixes:
    """Prefixes of one utterance; ``scores`` are log-probabilities of the units, (steps, units)."""

    def __init__(self, scores: torch.Tensor, blank: int) -> None:
        scores = scores.double().clamp(min=LOG_ZERO)
        start = scores.new_zeros(1, scores.shape[1])
        self._sums = torch.cat([start, scores.cumsum(0)])  # (steps + 1, units)
        self._blank = blank
        nothing = torch.full_like(self._sums[:, 0], LOG_ZERO)
        self._paths: dict[Units, PrefixPaths] = {
            (): PrefixPaths(nothing, self._sums[:, blank], 0.0)
        }

    def log_prefix(self, prefixes: Sequence[Units]) -> list[float]:
        """The log-probability that the text begins with each prefix; 0 for the empty one."""
        return [paths.log_probability for paths in self._find(prefixes)]

    def log_whole(self, text: Units) -> float:
        """The log-probability that the text has these units and no more."""
        paths = self._find([text])[0]
        return float(torch.logaddexp(paths.unit[-1], paths.blank[-1]))

    def forget(self, beginnings: Sequence[Units]) -> None:
        """Drops the paths of all prefixes but those that one of ``beginnings`` begins with: a
        search needs no others for its next step.
        """
        needed = {text[:length] for text in beginnings for length in range(len(text) + 1)}
        self._paths = {units: paths for units, paths in self._paths.items() if units in needed}

    def _find(self, prefixes: Sequence[Units]) -> list[PrefixPaths]:
        for length in range(1, max(map(len, prefixes), default=0) + 1):
            missing = {units[:length] for units in prefixes if len(units) >= length}
            self._extend(sorted(missing - self._paths.keys()))
        return [self._paths[units] for units in prefixes]

    def _extend(self, prefixes: Sequence[Units]) -> None:
        """Computes the paths of N prefixes from those without their last unit."""
        if not prefixes:
            return
        before = [self._paths[units[:-1]] for units in prefixes]
        last = torch.tensor([units[-1] for units in prefixes])
        is_repeated = torch.tensor([units[-2:-1] == units[-1:] for units in prefixes])
        sums = self._sums[:, last].T  # (N, steps + 1)
        blank_sums = self._sums[:, self._blank]  # (steps + 1,)
        after_unit = torch.stack([paths.unit for paths in before])
        after_blank = torch.stack([paths.blank for paths in before])
        after_unit = after_unit.masked_fill(is_repeated[:, None], LOG_ZERO)
        # Paths that have the prefix without the unit after t steps, and may take the unit next.
        ready = torch.logaddexp(after_unit, after_blank)  # (N, steps + 1)
        # The unit begins at step t + 1 and goes on: a path of s - t steps has sums[s] - sums[t].
        unit = _shift(torch.logcumsumexp(ready - sums, -1)) + sums
        unit[:, 0] = LOG_ZERO
        blank = _shift(torch.logcumsumexp(unit - blank_sums, -1)) + blank_sums
        blank[:, 0] = LOG_ZERO
        first = ready[:, :-1] + sums.diff(dim=-1)  # the unit begins at step t + 1
        log_probabilities = torch.logsumexp(first, -1).tolist()
        for row, units in enumerate(prefixes):
            self._paths[units] = PrefixPaths(unit[row], blank[row], log_probabilities[row])


def _shift(values: torch.Tensor) -> torch.Tensor:
    """(N, steps) with each row one step later, and ``LOG_ZERO`` first."""
    shifted = torch.full_like(values, LOG_ZERO)
    shifted[:, 1:] = values[:, :-1]
    return shifted
