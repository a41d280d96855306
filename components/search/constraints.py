"""Constraints of the search as logits processors. Each has one value an utterance, never the
batch's largest.

In: the new tokens of all beams, (rows, steps), and the log-probabilities of their next tokens,
(rows, vocabulary), where the beams of an utterance are adjacent rows. Out: the same scores, with
forbidden tokens at minus infinity; at least one token stays allowed in every row. The constraints
of an utterance do not depend on the rest of the batch. Cost: none beside the LLM; acoustic
agreement examines a few tokens of each beam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from components.config.decoding import ConstraintSet
from components.search.acoustic_evidence import CtcEvidence, Evidence, PrefixState

FORBIDDEN = float("-inf")
# Next tokens that acoustic agreement examines in each beam, likeliest first, until it has as many
# as beam search can use.
MAX_CANDIDATES = 64
# Those whose probability under CTC is added, of each beam: the others of the LLM are less likely
# by a factor of thousands.
JOINT_CANDIDATES = 24
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


class TokenLimits:
    """Forbids the end of sequence before ``min_tokens`` new tokens, unless nothing else is allowed,
    and everything else after ``max_tokens``, for each utterance.
    """

    def __init__(
        self, min_tokens: Sequence[int], max_tokens: Sequence[int], eos: int, device: torch.device
    ) -> None:
        self.min_tokens = torch.tensor(min_tokens, device=device)  # (B,)
        self.max_tokens = torch.tensor(max_tokens, device=device)  # (B,)
        self.eos = eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` with the limits of each utterance applied to its beams."""
        beams = len(scores) // len(self.max_tokens)
        num_tokens = input_ids.shape[1]  # new tokens alone: generation starts from embeddings
        scores = scores.clone()
        has_continuation = scores.isfinite().sum(-1) > scores[:, self.eos].isfinite()
        is_early = (num_tokens < self.min_tokens).repeat_interleave(beams)
        scores[is_early & has_continuation, self.eos] = FORBIDDEN
        eos_scores = scores[:, self.eos].clone()
        is_late = (num_tokens >= self.max_tokens).repeat_interleave(beams)
        scores[is_late] = FORBIDDEN
        scores[is_late, self.eos] = eos_scores[is_late]
        return scores


class LogProbabilities:
    """Turns logits into log-probabilities, which beam search passes on and greedy search does
    not.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The log-softmax of ``scores``."""
        return scores.log_softmax(-1)


class LikelyEnd:
    """Forbids an end of sequence whose log-probability is not above ``threshold`` times that of the
    likeliest other token (Hannun et al., arXiv 1904.02619), if another token is allowed.
    """

    def __init__(self, threshold: float, eos: int) -> None:
        self.threshold, self.eos = threshold, eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` without ends of sequence that are not likely enough."""
        continuations = scores.clone()
        continuations[:, self.eos] = FORBIDDEN
        is_unlikely = scores[:, self.eos] <= self.threshold * continuations.amax(-1)
        scores = scores.clone()
        scores[is_unlikely & continuations.isfinite().any(-1), self.eos] = FORBIDDEN
        return scores


class JointScore:
    """Adds ``weight`` times the log-probability under CTC to that of the LLM: joint decoding (Hori
    et al. 2017, arXiv 1706.02737, section 3.1, where the two weights have the sum 1).

    In each beam the likeliest tokens of the LLM and the end of sequence compete, and all others are
    forbidden.
    """

    def __init__(
        self, evidence: Sequence[CtcEvidence], weight: float, eos: int, ignored: set[int]
    ) -> None:
        self.evidence, self.weight, self.eos = evidence, weight, eos
        self._ignored = ignored

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores``, log-probabilities, of the candidates, with those of CTC."""
        beams = len(scores) // len(self.evidence)
        best = scores.topk(min(JOINT_CANDIDATES, scores.shape[-1]), dim=-1)
        joint = torch.full_like(scores, FORBIDDEN)
        pairs = zip(best.indices.tolist(), best.values.isfinite().tolist(), strict=True)
        for row, (tokens, is_possible) in enumerate(pairs):
            prefix = [token for token in input_ids[row].tolist() if token not in self._ignored]
            if self.eos in prefix:  # this beam has ended
                joint[row] = scores[row]
                continue
            candidates = [self.eos] + [
                token
                for token, possible in zip(tokens, is_possible, strict=True)
                if possible and token != self.eos and token not in self._ignored
            ]
            added = self.evidence[row // beams].log_joint(prefix, candidates, self.eos)
            joint[row, candidates] = scores[row, candidates] + self.weight * torch.tensor(
                added, dtype=scores.dtype, device=scores.device
            )
        return joint


class AcousticAgreementProcessor:
    """Forbids tokens after which a text would have more than ``max_unsupported`` units in a row
    that the audio does not support.

    In each beam the likeliest tokens are examined until ``2 · beams + 1`` are allowed, the most
    that beam search can use of one beam; all others are forbidden. The end of sequence is always
    allowed: a text that may not go on ends.
    """

    def __init__(
        self, evidence: Sequence[Evidence], max_unsupported: int, eos: int, ignored: set[int]
    ) -> None:
        self.evidence, self.max_unsupported = evidence, max_unsupported
        self.eos, self._ignored = eos, ignored
        # For each utterance the state of every prefix that was examined.
        self._states: list[dict[tuple[int, ...], PrefixState]] = [
            {(): PrefixState()} for _ in evidence
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` of the allowed tokens and of the end of sequence; the rest is forbidden."""
        beams = len(scores) // len(self.evidence)
        best = scores.topk(min(MAX_CANDIDATES, scores.shape[-1]), dim=-1)  # (rows, candidates)
        allowed_scores = torch.full_like(scores, FORBIDDEN)
        allowed_scores[:, self.eos] = scores[:, self.eos]
        candidates = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        for row, (tokens, values) in enumerate(candidates):
            prefix, utterance = input_ids[row].tolist(), row // beams
            if self.eos in prefix:  # this beam has ended
                continue
            state = self._prefix_state(utterance, tuple(prefix))
            possible = [
                token
                for token, value in zip(tokens, values, strict=True)
                if token != self.eos and value > FORBIDDEN
            ]
            allowed = self._allowed_tokens(utterance, state, possible, 2 * beams + 1)
            allowed_scores[row, allowed] = scores[row, allowed]
        return allowed_scores

    def _prefix_state(self, utterance: int, prefix: tuple[int, ...]) -> PrefixState:
        """The state of a prefix, computed from that of the prefix without its last token."""
        states = self._states[utterance]
        if prefix not in states:
            previous = self._prefix_state(utterance, prefix[:-1])
            is_ignored = prefix[-1] in self._ignored
            states[prefix] = (
                previous if is_ignored else self.evidence[utterance].extend(previous, prefix[-1])
            )
        return states[prefix]

    def _allowed_tokens(
        self, utterance: int, state: PrefixState, tokens: Sequence[int], max_count: int
    ) -> list[int]:
        """The first ``max_count`` of ``tokens`` that are allowed after a prefix."""
        evidence, allowed = self.evidence[utterance], []
        for token in tokens:
            # Most tokens are allowed without a closer look: a token adds no more units than it has.
            is_allowed = (
                token in self._ignored
                or state.unsupported + evidence.max_units(token) <= self.max_unsupported
                or evidence.extend(state, token).unsupported <= self.max_unsupported
            )
            if is_allowed:
                allowed.append(token)
                if len(allowed) == max_count:
                    break
        return allowed


def token_limits(
    constraints: ConstraintSet, durations_s: Sequence[float]
) -> tuple[list[int], list[int]]:
    """The fewest and the most tokens of each utterance, from its seconds of audio."""
    rate, extra = constraints.max_tokens_per_second, constraints.extra_tokens
    max_tokens = [
        min(constraints.max_tokens, int(rate * duration_s) + extra)
        if rate
        else constraints.max_tokens
        for duration_s in durations_s
    ]
    min_tokens = [
        min(int(constraints.min_tokens_per_second * duration_s), most)
        for duration_s, most in zip(durations_s, max_tokens, strict=True)
    ]
    return min_tokens, max_tokens


def logits_processors(
    constraints: ConstraintSet,
    durations_s: Sequence[float],
    evidence: Sequence[Evidence],
    eos: int,
    ignored: set[int],
    device: torch.device,
) -> LogitsProcessorList:
    """The constraints of a set. ``ignored`` are tokens that are no text: their units do not count.

    The order is: what a score is, which tokens are allowed, how long a text may be, and last
    whether an end is likely enough, which is skipped if nothing but the end is allowed.
    """
    processors: list[Callable[..., torch.Tensor]] = []
    has_penalty = constraints.repetition_penalty != 1
    if constraints.beams == 1 and (
        has_penalty or constraints.eos_threshold or constraints.ctc_weight
    ):
        processors.append(LogProbabilities())
    if has_penalty:
        # Not through the generation config: that spares as many tokens as the batch has padding.
        processors.append(RepetitionPenaltyLogitsProcessor(constraints.repetition_penalty))
    if constraints.ctc_weight:
        of_ctc = [own for own in evidence if isinstance(own, CtcEvidence)]
        processors.append(JointScore(of_ctc, constraints.ctc_weight, eos, ignored))
    if constraints.max_unsupported_units:
        processors.append(
            AcousticAgreementProcessor(
                evidence, int(constraints.max_unsupported_units), eos, ignored
            )
        )
    processors.append(TokenLimits(*token_limits(constraints, durations_s), eos, device))
    if constraints.eos_threshold:
        processors.append(LikelyEnd(constraints.eos_threshold, eos))
    return LogitsProcessorList(processors)
