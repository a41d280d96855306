"""What was heard of an utterance, beside what the LLM makes of it: the encoder's CTC posterior, or
the matching cross-attention.

In: frames of the encoder's last layer and its CTC head, or projected speech and the matching head
of the bridge. Out: for how many units a text runs on without one that was heard, how likely it is
that anything was said at all, and how well a whole text agrees. An utterance's evidence comes from
its own frames alone. Cost: one product with the head, then a few microseconds a character.

With CTC the units are letters and digits, case folded: one is heard where it lengthens the longest
common subsequence (Hirschberg 1977) of the text with the greedy CTC text, so that a word which CTC
spells otherwise has letters that count, and what runs on past the recording, or round in a loop,
finds none that are left. With the matching head (Pham et al., arXiv 2406.17272) they are the LLM's
tokens: one is heard where the speech that it attends to looks like its embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from components.model.encoders.ctc import CtcHead
from components.model.matching import MatchingHead

# Cosine of a token's embedding and the speech that it attends to, from which on it counts as heard.
# With the default bridge no token reaches 0.30 on synthetic non-speech; on spoken-dev 19 of 20
# tokens that were said lie above 0.38, and of those that were not two thirds above 0.30, since any
# speech has something of them. A bound of 0.4 cut off words that were said, this one none.
COSINE_THRESHOLD = 0.3
# Mean cosine of a text at which nothing and at which surely something was said: with that bridge
# synthetic non-speech reaches 0.10 and speech begins at 0.35.
QUIET, SPOKEN = 0.1, 0.35
NEVER = float("-inf")
PART = "\N{REPLACEMENT CHARACTER}"  # how a token reads that holds some of the bytes of a letter


@dataclass(frozen=True)
class PrefixState:
    """How far a text has come: units since the last one that was heard, and what a further unit is
    held against.
    """

    unsupported: int = 0
    tokens: tuple[int, ...] = ()
    letters: str = ""
    row: np.ndarray | None = (
        None  # longest common subsequence of the letters with each beginning of the CTC text
    )


class Evidence(Protocol):
    """Evidence of one utterance."""

    def most(self, token: int) -> int:
        """Units of a token of the LLM: by so many ``unheard`` grows at most."""

    def extend(self, reach: PrefixState, token: int) -> PrefixState:
        """The reach of a text with one more token."""

    def speech(self, tokens: Sequence[int]) -> float:
        """How sure it is that anything was said, 0 to 1; ``tokens`` are the best text's."""

    def agreement(self, tokens: Sequence[int], text: str) -> float:
        """Log-probability of a text under what was heard; the empty one has some too."""


def letters(text: str) -> str:
    """Letters and digits of a text, case folded: what two writings of one utterance
    have in common.
    """
    return "".join(filter(str.isalnum, text.casefold()))


class CtcEvidence:
    """Evidence by the CTC head of an encoder. ``scores`` are log-probabilities of the units at each
    frame, (frames, units); ``heard`` is the greedy text; ``text`` gives the text of some tokens of
    the LLM.
    """

    def __init__(
        self,
        scores: torch.Tensor,
        heard: str,
        head: CtcHead,
        text: Callable[[tuple[int, ...]], str],
    ) -> None:
        self._scores, self._head, self._text = scores, head, text
        self._heard = np.array([ord(each) for each in letters(heard)], np.int64)

    def most(self, token: int) -> int:
        piece = self._text((token,))
        return len(letters(piece)) + (PART in piece)

    def extend(self, reach: PrefixState, token: int) -> PrefixState:
        tokens = (*reach.tokens, token)
        said = letters(
            self._text(tokens)
        )  # of all of them: one letter may be written by several tokens
        row, before, unheard = reach.row, reach.letters, reach.unsupported
        if row is None or not said.startswith(before):
            row, before, unheard = np.zeros(len(self._heard) + 1, np.int32), "", 0
        for letter in said[
            len(before) :
        ]:  # row[j]: longest common subsequence with the first j letters that were heard
            met, common = row[:-1] + (self._heard == ord(letter)), row[-1]
            row = np.maximum.accumulate(np.concatenate([row[:1], np.maximum(row[1:], met)]))
            unheard = 0 if row[-1] > common else unheard + 1
        return PrefixState(unheard, tokens, said, row)

    def speech(self, tokens: Sequence[int]) -> float:
        return -float(np.expm1(self._blank))

    @cached_property
    def _blank(self) -> float:
        """Log-probability that no frame holds a unit."""
        return float(self._scores[:, self._head.blank].sum()) if len(self._scores) else 0.0

    def agreement(self, tokens: Sequence[int], text: str) -> float:
        """log P(text | frames), summed over all CTC paths (Graves et al. 2006); units that the head
        lacks are left out of the text, and one that does not fit into the frames can't have been
        said.
        """
        target = self._head.encode_known(text)
        if not target:
            return self._blank if not letters(text) else NEVER
        lengths = (torch.tensor([len(self._scores)]), torch.tensor([len(target)]))
        loss = torch.nn.functional.ctc_loss(
            self._scores[:, None],
            torch.tensor([target]),
            *lengths,
            blank=self._head.blank,
            reduction="sum",
        )
        return -float(loss)


class MatchedEvidence:
    """Evidence by the matching head of a bridge. ``speech`` are the projected vectors of the
    utterance, (tokens, LLM width), ``embed`` the LLM's embedding table.
    """

    def __init__(
        self, matching: MatchingHead, speech: torch.Tensor, embed: torch.nn.Module
    ) -> None:
        self._matching, self._speech, self._embed = matching, speech, embed
        self._known: dict[int, float] = {}

    def most(self, token: int) -> int:
        return 1

    def extend(self, reach: PrefixState, token: int) -> PrefixState:
        return PrefixState(
            0 if self._cosine(token) >= COSINE_THRESHOLD else reach.unsupported + 1,
            (*reach.tokens, token),
        )

    def speech(self, tokens: Sequence[int]) -> float:
        """Where the mean of the cosines lies between ``QUIET`` and ``SPOKEN``, those below 0 taken
        as 0; 0 for no tokens.
        """
        mean = (
            float(np.mean([max(0.0, self._cosine(token)) for token in tokens]))
            if len(tokens)
            else 0.0
        )
        return min(1.0, max(0.0, (mean - QUIET) / (SPOKEN - QUIET)))

    def agreement(self, tokens: Sequence[int], text: str) -> float:
        """Sum of log((1 + cosine) / 2) over tokens."""
        return float(sum(np.log(max(1e-9, (1 + self._cosine(token)) / 2)) for token in tokens))

    @torch.inference_mode()
    def _cosine(self, token: int) -> float:
        if token not in self._known:
            text = self._embed(torch.tensor([token], device=self._speech.device)).to(
                self._speech.dtype
            )
            got = self._matching.attend(text, self._speech)
            self._known[token] = float(
                torch.nn.functional.cosine_similarity(got.float(), text.float(), dim=-1)
            )
        return self._known[token]


def ctc_evidence(
    encoder: Any, frames: Sequence[torch.Tensor], text: Callable[[tuple[int, ...]], str]
) -> list[Evidence]:
    """Evidence of utterances by the CTC head of their encoder, from last-layer frames, each
    (frames, width); ``text`` gives the text of some tokens of the LLM.
    """
    head, heard = CtcHead(encoder), encoder.ctc_text(frames)
    known = lru_cache(maxsize=100_000)(text)
    return [
        CtcEvidence(scores.cpu(), said, head, known)
        for scores, said in zip(head.log_probabilities(frames), heard, strict=True)
    ]
