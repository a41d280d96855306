"""Constraints of the search as logits processors, each with one value an utterance, never the
batch's largest.

In: new tokens (beams, steps) and their next scores (beams, vocabulary), beams of an utterance side
by side, log-probabilities. Out: scores with what is forbidden at minus infinity; each leaves at
least one token to every beam. What an utterance may say does not hang on its neighbours. Cost:
nothing beside the LLM; acoustic agreement looks at a few tokens of each beam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from components.config.params import ConstraintSet
from components.search.acoustic_evidence import Evidence, PrefixState

NEVER = float("-inf")
# Next tokens that acoustic agreement looks at, likeliest first, until it has found as many as beam
# search can use.
CANDIDATES = 64
GREEDY = ConstraintSet(
    beams=1,
    max_tokens=100,
    length_penalty=1.0,
    no_repeat_ngram=0,
    max_tokens_per_second=0,
    extra_tokens=0,
    min_tokens_per_second=0,
    repetition_penalty=1.0,
    eos_threshold=0,
    max_unsupported_units=0,
    silence_gate=0,
)


class TokenLimits(LogitsProcessor):
    """Forbids the end of sequence before ``fewest`` new tokens, where there is another way on, and
    everything else after ``most``, for each utterance.
    """

    def __init__(
        self, fewest: Sequence[int], most: Sequence[int], eos: int, device: torch.device
    ) -> None:
        self.fewest, self.most = (torch.tensor(values, device=device) for values in (fewest, most))
        self.eos = eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = len(scores) // len(self.most)
        done = input_ids.shape[1]  # new tokens alone: generation starts from embeddings
        scores = scores.clone()
        others = scores.isfinite().sum(-1) > scores[:, self.eos].isfinite()
        early = (done < self.fewest).repeat_interleave(beams)
        scores[early & others, self.eos] = NEVER
        ended = scores[:, self.eos].clone()
        late = (done >= self.most).repeat_interleave(beams)
        scores[late] = NEVER
        scores[late, self.eos] = ended[late]
        return scores


class LogProbabilities(LogitsProcessor):
    """Scores as log-probabilities, which greedy search does not hand on as beam search does."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.log_softmax(-1)


class LikelyEnd(LogitsProcessor):
    """Forbids an end whose log-probability is not above ``threshold`` times that of the likeliest
    other token (Hannun et al., arXiv 1904.02619): a text does not end while the LLM would rather go
    on and may.
    """

    def __init__(self, threshold: float, eos: int) -> None:
        self.threshold, self.eos = threshold, eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        others = scores.clone()
        others[:, self.eos] = NEVER
        unlikely = scores[:, self.eos] <= self.threshold * others.amax(-1)
        scores = scores.clone()
        scores[unlikely & others.isfinite().any(-1), self.eos] = NEVER
        return scores


class AcousticAgreementProcessor(LogitsProcessor):
    """Forbids tokens by which a text would run on for more than ``most`` units of which none was
    heard.

    Of each beam the likeliest tokens are looked at until ``2 · beams + 1`` are allowed, which is
    all that beam search can take from one; the rest is forbidden. The end of sequence is never
    forbidden here: a text that has used up what it may make up ends.
    """

    def __init__(
        self, evidence: Sequence[Evidence], most: int, eos: int, ignored: set[int]
    ) -> None:
        self.evidence, self.most, self.eos, self._ignored = evidence, most, eos, ignored
        self._reaches: list[dict[tuple[int, ...], PrefixState]] = [
            {(): PrefixState()} for _ in evidence
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = len(scores) // len(self.evidence)
        best = scores.topk(min(CANDIDATES, scores.shape[-1]), dim=-1)
        kept = torch.full_like(scores, NEVER)
        kept[:, self.eos] = scores[:, self.eos]
        for row, (tokens, values) in enumerate(
            zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ):
            said, place = input_ids[row].tolist(), row // beams
            if self.eos in said:  # this beam has ended, what it says no longer counts
                continue
            reach = self._prefix_state(place, tuple(said))
            allowed = [
                token
                for token, value in zip(tokens, values, strict=True)
                if token != self.eos and value > NEVER
            ]
            taken = self._allowed(place, reach, allowed, 2 * beams + 1)
            kept[row, taken] = scores[row, taken]
        return kept

    def _prefix_state(self, place: int, said: tuple[int, ...]) -> PrefixState:
        """The reach of a text, from that of the text before its last token."""
        known = self._reaches[place]
        if said not in known:
            before = self._prefix_state(place, said[:-1])
            known[said] = (
                before
                if said[-1] in self._ignored
                else self.evidence[place].extend(before, said[-1])
            )
        return known[said]

    def _allowed(
        self, place: int, reach: PrefixState, tokens: Sequence[int], enough: int
    ) -> list[int]:
        evidence, found = self.evidence[place], []
        for token in tokens:
            # Most are allowed without a closer look, since a token can't add more than it has.
            plainly = (
                token in self._ignored or reach.unsupported + evidence.most(token) <= self.most
            )
            if plainly or evidence.extend(reach, token).unsupported <= self.most:
                found.append(token)
                if len(found) == enough:
                    break
        return found


def limits(constraints: ConstraintSet, seconds: Sequence[float]) -> tuple[list[int], list[int]]:
    """Fewest and most tokens of each utterance, from its seconds of audio."""
    rate, extra = constraints.max_tokens_per_second, constraints.extra_tokens
    most = [
        min(constraints.max_tokens, int(rate * each) + extra) if rate else constraints.max_tokens
        for each in seconds
    ]
    fewest = [
        min(int(constraints.min_tokens_per_second * each), cap)
        for each, cap in zip(seconds, most, strict=True)
    ]
    return fewest, most


def processors(
    constraints: ConstraintSet,
    seconds: Sequence[float],
    evidence: Sequence[Evidence],
    eos: int,
    ignored: set[int],
    device: torch.device,
) -> LogitsProcessorList:
    """The constraints that a set asks for. ``ignored`` are tokens that are no text: their units do
    not count.

    Their order: what a score is, what may be said, how long a text may be, and last whether an end
    is likely enough, which gives way where nothing but the end is left.
    """
    found: list[Callable[..., torch.Tensor]] = []
    if constraints.beams == 1 and (
        constraints.repetition_penalty != 1 or constraints.eos_threshold
    ):
        found.append(LogProbabilities())
    if (
        constraints.repetition_penalty != 1
    ):  # not by the generation's settings: those spare as many tokens as the batch padded
        found.append(RepetitionPenaltyLogitsProcessor(constraints.repetition_penalty))
    fewest, most = limits(constraints, seconds)
    if constraints.max_unsupported_units:
        found.append(
            AcousticAgreementProcessor(evidence, constraints.max_unsupported_units, eos, ignored)
        )
    found.append(TokenLimits(fewest, most, eos, device))
    if constraints.eos_threshold:
        found.append(LikelyEnd(constraints.eos_threshold, eos))
    return LogitsProcessorList(found)
