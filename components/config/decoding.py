"""The section ``decode`` of ``params.yaml``: sets of constraints of the search.

In: plain data. Out: typed, checked settings (see ``components.config.params``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.config.ranges import (
    BatchSeconds,
    Beams,
    BeamsOrNone,
    Exponent,
    LossWeight,
    NonNegativeFloat,
    NonNegativeInt,
    PenaltyFactor,
    Share,
    Threads,
    Tokens,
)
from components.config.schema import STRICT, RuleError, Unit

CALIBRATED = "calibrated"  # in place of the figure of a limit


@dataclass(frozen=True)
class ConstraintSet:
    """One set of search constraints; 0 switches a limit off, and 1 the repetition penalty."""

    __pydantic_config__ = STRICT
    beams: Annotated[Beams, Field(description="Width of the beam search; 1 is greedy.")]
    max_tokens: Annotated[
        Tokens, Unit("tokens of the LLM"), Field(description="Longest hypothesis.")
    ]
    length_penalty: Annotated[
        Exponent,
        Field(description="Exponent of the length that divides the score of a hypothesis."),
    ]
    no_repeat_ngram: Annotated[
        NonNegativeInt,
        Unit("tokens of the LLM"),
        Field(description="Length of token sequences that may not repeat."),
    ]
    max_tokens_per_second: Annotated[
        NonNegativeFloat,
        Unit("tokens/s"),
        Field(description="Longest hypothesis, by the utterance's audio."),
    ]
    extra_tokens: Annotated[
        NonNegativeInt, Field(description="Added to the limit of max_tokens_per_second.")
    ]
    min_tokens_per_second: Annotated[
        NonNegativeFloat,
        Unit("tokens/s"),
        Field(description="Shortest hypothesis, by the utterance's audio."),
    ]
    repetition_penalty: Annotated[
        PenaltyFactor,
        Field(description="Factor of the log-probability of tokens that the hypothesis has."),
    ]
    eos_threshold: Annotated[
        Exponent,
        Field(
            description="An end whose log-probability is below so many times that of the likeliest "
            "other token does not count."
        ),
    ]
    max_unsupported_units: Annotated[
        NonNegativeInt | Literal["calibrated"],
        Unit("letters with CTC, else tokens"),
        Field(
            description="Most in a row that the encoder does not support; calibrated: of dev, by "
            "the stage ctc."
        ),
    ]
    silence_gate: Annotated[
        Share | Literal["calibrated"],
        Field(description="Speech evidence below which silence competes; calibrated: of dev."),
    ]
    ctc_weight: Annotated[
        LossWeight,
        Field(
            description="Of the log-probability under the CTC head, which the search adds to that "
            "of the LLM; 0: off."
        ),
    ] = 0.0
    ctc_texts: Annotated[
        BeamsOrNone,
        Field(
            description="Prefixes that a prefix beam search of the CTC head keeps, among which the "
            "LLM chooses, which does not hear the speech; 0: the LLM writes the text."
        ),
    ] = 0
    word_bonus: Annotated[
        LossWeight,
        Unit("natural logarithm"),
        Field(
            description="Added to the score of a text for each word, where the LLM chooses among "
            "the texts of the CTC head: it finds longer texts less likely."
        ),
    ] = 0.0
    context: Annotated[
        str,
        Field(description="About the recordings; the LLM reads it before the speech; empty: none."),
    ] = ""

    @property
    def needs_acoustic_evidence(self) -> bool:
        """Whether the search compares the text with what the encoder recognises."""
        uses_ctc = self.ctc_weight or self.ctc_texts
        return bool(self.max_unsupported_units or self.silence_gate or uses_ctc)

    @property
    def needs_calibration(self) -> bool:
        """Whether a limit is the one that the stage ``ctc`` calculates from dev."""
        return CALIBRATED in (self.max_unsupported_units, self.silence_gate)

    def calibrate(self, max_unsupported_units: int, silence_gate: float) -> ConstraintSet:
        """The same set with these figures in place of ``calibrated``."""
        units, gate = self.max_unsupported_units, self.silence_gate
        return replace(
            self,
            max_unsupported_units=max_unsupported_units if units == CALIBRATED else units,
            silence_gate=silence_gate if gate == CALIBRATED else gate,
        )

    def without_acoustic_limits(self) -> ConstraintSet:
        """The same set without what needs acoustic evidence, for a model that has none."""
        without_ctc = self.without_ctc()
        return replace(without_ctc, max_unsupported_units=0, silence_gate=0)

    def without_ctc(self) -> ConstraintSet:
        """The same set without what needs a CTC head."""
        return replace(self, ctc_weight=0.0, ctc_texts=0, word_bonus=0.0)

    @model_validator(mode="after")
    def check_rescoring(self) -> Self:
        """Without the head's share the LLM would choose the shortest text."""
        if self.ctc_texts and not self.ctc_weight:
            raise RuleError("ctc_texts", "it needs a ctc_weight above 0.", "Set ctc_weight to 1.")
        return self


# Names of hypotheses that are no constraint sets.
RESERVED_SETS = frozenset({"ctc", "llm", "whisper"})


@dataclass(frozen=True)
class Decode:
    """Search for the hypotheses of the test sources."""

    __pydantic_config__ = STRICT
    batch_seconds: Annotated[
        BatchSeconds, Unit("s"), Field(description="Audio in a batch, padding counted.")
    ]
    threads: Annotated[Threads, Field(description="Threads of a worker process.")]
    exact: Annotated[
        bool,
        Field(description="The LLM in fp32, whatever its entry says: batches change no text."),
    ]
    perplexity: Annotated[
        bool, Field(description="Whether the LLM alone scores the references, by word.")
    ]
    sets: Annotated[
        dict[str, ConstraintSet], Field(description="One hypothesis for an utterance and set.")
    ]

    @model_validator(mode="after")
    def check_sets(self) -> Self:
        """The set 'free' is the baseline of the stage score; some names are not sets."""
        if "free" not in self.sets:
            raise RuleError("sets", "the set 'free' is missing.", "Add it.")
        for name in sorted(RESERVED_SETS & set(self.sets)):
            raise RuleError(
                "sets",
                f"'{name}' is no name of a set: other hypotheses have it.",
                "Rename the set.",
            )
        return self
