"""Acoustic evidence for a text, beside the score of the LLM: from the encoder's CTC posterior, or
from the cross-attention of the bridge's matching head.

In: last-layer frames of an utterance and the encoder's CTC head, or projected speech and the
matching head. Out: how many units a text goes on without one that the audio supports, the
probability that there is speech at all, and the log-probability of a whole text. The evidence of an
utterance comes from its own frames alone. Cost: one product with the head, then a few microseconds
a character.

With CTC the units are letters and digits, case folded. A unit is supported if it lengthens the
longest common subsequence (Hirschberg 1977) of the text with the greedy CTC text. A word that CTC
spells in another way still has supported letters; a text that goes on after the recording ends, or
that repeats itself, has none left. With the matching head (Pham et al., arXiv 2406.17272) the units
are tokens of the LLM. A token is supported if the speech that it attends to is similar to its
embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch

from components.model.encoders.ctc import CtcHead, HeadSource
from components.model.matching import MatchingHead
from components.search.ctc_beam import list_likely_texts
from components.search.ctc_prefixes import CtcPrefixes, Units

# Cosine of a token's embedding and the speech that it attends to, from which on the token is
# supported. Measured with the default bridge: on synthetic non-speech no token reaches 0.30; on
# spoken-dev 19 of 20 tokens of the reference are above 0.38, and two thirds of the other tokens are
# above 0.30, since any speech resembles them a little. A threshold of 0.4 removed correct words,
# this one removed none.
COSINE_THRESHOLD = 0.3
# Mean cosine of a text's tokens at which the probability of speech is 0 and 1. With the same bridge
# synthetic non-speech reaches 0.10, and speech begins at 0.35.
NON_SPEECH_COSINE, SPEECH_COSINE = 0.1, 0.35
IMPOSSIBLE = float("-inf")
# How a token is decoded that holds some of the bytes of a letter.
PARTIAL_LETTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class PrefixState:
    """The evidence for the beginning of a text."""

    unsupported: int = 0  # units since the last supported one
    tokens: tuple[int, ...] = ()
    letters: str = ""
    # Length of the longest common subsequence of ``letters`` with the first 0, 1, 2, … letters of
    # the CTC text: (letters of the CTC text + 1,).
    row: np.ndarray | None = None


class Evidence(Protocol):
    """Acoustic evidence of one utterance."""

    def max_units(self, token: int) -> int:
        """The most units that a token of the LLM can add to a text."""

    def extend(self, state: PrefixState, token: int) -> PrefixState:
        """The state of a text with one more token."""

    def speech_probability(self, tokens: Sequence[int]) -> float:
        """The probability, 0 to 1, that the utterance has speech; ``tokens`` are those of the best
        text.
        """

    def log_agreement(self, tokens: Sequence[int], text: str) -> float:
        """Natural log-probability of a text, which may be empty, given the audio."""


def letters(text: str) -> str:
    """The letters and digits of a text, case folded: what two spellings of one utterance share."""
    return "".join(filter(str.isalnum, text.casefold()))


class CtcEvidence:
    """Evidence from the CTC head of an encoder.

    ``scores`` are log-probabilities of the head's units at each frame, (frames, units);
    ``ctc_text`` is the greedy text; ``decode_tokens`` turns tokens of the LLM into text.
    """

    def __init__(
        self,
        scores: torch.Tensor,
        ctc_text: str,
        head: CtcHead,
        decode_tokens: Callable[[tuple[int, ...]], str],
    ) -> None:
        self._scores, self._head, self._decode_tokens = scores, head, decode_tokens
        self._ctc_letters = np.array([ord(letter) for letter in letters(ctc_text)], np.int64)

    def max_units(self, token: int) -> int:
        """Letters of the token, and one more if it ends within a letter."""
        piece = self._decode_tokens((token,))
        return len(letters(piece)) + (PARTIAL_LETTER in piece)

    def extend(self, state: PrefixState, token: int) -> PrefixState:
        """One step of the longest common subsequence for each letter that the token adds."""
        tokens = (*state.tokens, token)
        # Of all tokens together, since one letter may be written by several tokens.
        text = letters(self._decode_tokens(tokens))
        row, previous_text, unsupported = state.row, state.letters, state.unsupported
        if row is None or not text.startswith(previous_text):
            row = np.zeros(len(self._ctc_letters) + 1, np.int32)
            previous_text, unsupported = "", 0
        for letter in text[len(previous_text) :]:
            previous_length = row[-1]
            row = _extend_row(row, self._ctc_letters == ord(letter))
            unsupported = 0 if row[-1] > previous_length else unsupported + 1
        return PrefixState(unsupported, tokens, text, row)

    def count_unsupported(self, text: str) -> int:
        """Most letters of a text in a row that are not supported: the smallest limit that allows
        it, however the LLM's tokens divide it.
        """
        row: np.ndarray = np.zeros(len(self._ctc_letters) + 1, np.int32)
        unsupported = most = 0
        for letter in letters(text):
            previous_length = row[-1]
            row = _extend_row(row, self._ctc_letters == ord(letter))
            unsupported = 0 if row[-1] > previous_length else unsupported + 1
            most = max(most, unsupported)
        return most

    def speech_probability(self, tokens: Sequence[int] = ()) -> float:
        """1 - P(all frames are blank)."""
        return -float(np.expm1(self._log_all_blank))

    @cached_property
    def _log_all_blank(self) -> float:
        """Log-probability that no frame holds a unit."""
        return float(self._scores[:, self._head.blank].sum()) if len(self._scores) else 0.0

    def log_joint(self, prefix: Sequence[int], candidates: Sequence[int], eos: int) -> list[float]:
        """What each candidate token adds to the log-probability that the text begins as the LLM
        has written it; with ``eos`` the text ends there. The sum over the tokens of a hypothesis is
        the log-probability of its text.
        """
        units = self._units(prefix)
        self._prefixes.forget([units])
        longer = [self._units((*prefix, token)) for token in candidates if token != eos]
        before, *after = self._prefixes.log_prefix([units, *longer])
        values = iter(after)
        return [
            (self._prefixes.log_whole(units) if token == eos else next(values)) - before
            for token in candidates
        ]

    def list_likely_texts(
        self, count: int, score_texts: Callable[[Sequence[str]], Sequence[float]] | None = None
    ) -> dict[str, float]:
        """At most so many texts of a prefix beam search of the head, the likeliest first, and their
        log-probabilities; those of one spelling are added. ``score_texts`` judges the prefixes
        without their last words, which may go on.
        """

        def judge(prefixes: Sequence[Units]) -> Sequence[float]:
            texts = [self._head.write(units).rpartition(" ")[0] for units in prefixes]
            return score_texts(texts) if score_texts else [0.0] * len(texts)

        texts: dict[str, float] = {}
        likely = list_likely_texts(
            self._scores, self._head.blank, count, judge if score_texts else None
        )
        for units, value in likely:
            text = self._head.write(units)
            texts[text] = float(np.logaddexp(texts[text], value)) if text in texts else value
        return texts

    def _units(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The units of the head of a text."""
        return tuple(self._head.encode_in_vocabulary(self._decode_tokens(tuple(tokens))))

    @cached_property
    def _prefixes(self) -> CtcPrefixes:
        return CtcPrefixes(self._scores, self._head.blank)

    def log_agreement(self, tokens: Sequence[int], text: str) -> float:
        """log P(text | frames), summed over all CTC paths (Graves et al. 2006, equation 3).

        Units that the head lacks are left out of the text. The result is minus infinity for a text
        that has more units than there are frames.
        """
        target = self._head.encode_in_vocabulary(text)
        if not target:
            return self._log_all_blank if not letters(text) else IMPOSSIBLE
        lengths = (torch.tensor([len(self._scores)]), torch.tensor([len(target)]))
        loss = torch.nn.functional.ctc_loss(
            self._scores[:, None],  # (frames, 1, units)
            torch.tensor([target]),  # (1, target units)
            *lengths,
            blank=self._head.blank,
            reduction="sum",
        )
        return -float(loss)


def _extend_row(row: np.ndarray, is_match: np.ndarray) -> np.ndarray:
    """``PrefixState.row`` after one more letter; ``is_match`` says where the CTC text has it,
    (letters of the CTC text,).
    """
    longest = np.concatenate([row[:1], np.maximum(row[1:], row[:-1] + is_match)])
    next_row: np.ndarray = np.maximum.accumulate(longest)
    return next_row


class MatchedEvidence:
    """Evidence from the matching head of a bridge.

    ``speech`` is the projected speech of the utterance, (speech tokens, LLM width); ``embedding``
    is the LLM's embedding table.
    """

    def __init__(
        self, matching: MatchingHead, speech: torch.Tensor, embedding: torch.nn.Module
    ) -> None:
        self._matching, self._speech, self._embedding = matching, speech, embedding
        self._cosines: dict[int, float] = {}

    def max_units(self, token: int) -> int:
        """One: the units are tokens."""
        return 1

    def extend(self, state: PrefixState, token: int) -> PrefixState:
        """The token is supported if its cosine reaches ``COSINE_THRESHOLD``."""
        is_supported = self._cosine(token) >= COSINE_THRESHOLD
        return PrefixState(0 if is_supported else state.unsupported + 1, (*state.tokens, token))

    def speech_probability(self, tokens: Sequence[int]) -> float:
        """Position of the mean cosine between ``NON_SPEECH_COSINE`` (0) and ``SPEECH_COSINE`` (1);
        negative cosines count as 0. It is 0 for no tokens.
        """
        cosines = [max(0.0, self._cosine(token)) for token in tokens]
        mean = float(np.mean(cosines)) if cosines else 0.0
        share = (mean - NON_SPEECH_COSINE) / (SPEECH_COSINE - NON_SPEECH_COSINE)
        return min(1.0, max(0.0, share))

    def log_agreement(self, tokens: Sequence[int], text: str) -> float:
        """Sum of log((1 + cosine) / 2) over tokens."""
        return float(sum(np.log(max(1e-9, (1 + self._cosine(token)) / 2)) for token in tokens))

    @torch.inference_mode()
    def _cosine(self, token: int) -> float:
        """Cosine of a token's embedding and the speech that it attends to."""
        if token not in self._cosines:
            ids = torch.tensor([token], device=self._speech.device)
            text = self._embedding(ids).to(self._speech.dtype)  # (1, LLM width)
            attended = self._matching.attend(text, self._speech)  # (1, LLM width)
            cosine = torch.nn.functional.cosine_similarity(attended.float(), text.float(), dim=-1)
            self._cosines[token] = float(cosine)
        return self._cosines[token]


def ctc_evidence(
    source: HeadSource,
    frames: Sequence[torch.Tensor],
    decode_tokens: Callable[[tuple[int, ...]], str],
) -> list[CtcEvidence]:
    """Evidence of utterances from a CTC head and the frames that it reads, each (frames, width).
    ``decode_tokens`` turns tokens of the LLM into text.
    """
    head = CtcHead(source)
    ctc_texts = head.decode(frames)
    cached_decode = lru_cache(maxsize=100_000)(decode_tokens)
    return [
        CtcEvidence(scores.cpu(), ctc_text, head, cached_decode)
        for scores, ctc_text in zip(head.log_probabilities(frames), ctc_texts, strict=True)
    ]
