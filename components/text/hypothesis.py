"""One text that a system wrote for an utterance: the same shape from the search to the report.

The search fills the text, its tokens, its score and the alternatives. The stage ``decode`` adds the
system and the utterance. ``components.decode.hypotheses`` writes and reads it as parquet.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

CTC = "ctc"  # the system that is the encoder's own text
WHISPER = "whisper"  # the system that is Whisper's own decoder
LLM_ONLY = "llm"  # no text: the log-probability of the reference under the LLM without speech

# What tokenizers write for a letter of which some bytes are missing: once, or for each byte.
CUT_LETTER = re.compile("\ufffd{1,3}$")


@dataclass(frozen=True)
class Hypothesis:
    """A text, its score, and the utterance that it belongs to."""

    text: str  # as the system wrote it, not normalised
    tokens: list[int] = field(default_factory=list)  # without the end of sequence
    score: float = math.nan  # log-probability, natural logarithm; nan where a system has none
    alternatives: list[Hypothesis] = field(default_factory=list)  # the rest of the n-best list
    system: str = ""  # a constraint set, CTC, WHISPER or LLM_ONLY
    utterance_id: str = ""
    speaker: str = ""
    language: str = ""
    reference: str = ""
    duration_s: float = 0.0  # of the audio
    at_limit: bool = False  # as many tokens as its constraint set allows: it may be cut off


def drop_cut_letter(text: str) -> str:
    """A text that a limit of tokens has cut, without the letter that it was cut in."""
    return CUT_LETTER.sub("", text).rstrip()
