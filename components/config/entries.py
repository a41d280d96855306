"""Entries of ``catalogue/encoder.yaml`` and ``catalogue/llm.yaml`` as typed, checked data.

An entry is split by who reads it (``source``, ``numerics``, ``prompt``, ``lora``), so that a DVC
stage depends on the parts that it reads alone. ``card`` (licence, notes) is for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from components.config.model_sources import EncoderSource, LlmSource
from components.config.ranges import LargestValue
from components.config.schema import STRICT, RuleError

Padding = Literal["window", "full-window", "none"]
Arithmetic = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class EncoderNumerics:
    """How an encoder is run."""

    __pydantic_config__ = STRICT
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], Field(description="Of weights and computation.")
    ]
    features: Annotated[Literal["float32", "float16"], Field(description="Of stored frames.")]
    batching: Annotated[
        Literal["padded", "equal-length"],
        Field(description="equal-length: group norm over time forbids padding."),
    ]
    max_abs: Annotated[
        LargestValue,
        Field(description="A larger feature value stops the stage: half precision ends at 65,504."),
    ] = 6.0e4
    padding: Annotated[
        Padding,
        Field(
            description="Whisper: window: 30 s as in pre-training, and of its frames those of the "
            "audio; full-window: all of them, 1,500 for 30 s; none: the true length alone."
        ),
    ] = "window"
    gpu_arithmetic: Annotated[
        Arithmetic,
        Field(
            description="Of float32 weights on a GPU, where the encoder is frozen. tf32 and "
            "bfloat16 are faster and round more; bench.precision --encoder says what that costs."
        ),
    ] = "float32"


@dataclass(frozen=True)
class LoraTargets:
    """The linear layers that LoRA adapts."""

    __pydantic_config__ = STRICT
    targets: Annotated[list[str], Field(description="Last parts of the names of layers.")]


@dataclass(frozen=True)
class EncoderEntry:
    """An entry of ``catalogue/encoder.yaml``."""

    __pydantic_config__ = STRICT
    source: EncoderSource
    numerics: EncoderNumerics
    lora: Annotated[
        LoraTargets | None, Field(description="null for log-mel, which has no layers.")
    ] = None
    card: Annotated[dict[str, Any], Field(description="For people; no stage reads it.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Prompt:
    """The text before and after the speech; ``{speech}`` marks the position of the projected
    frames.

    Special tokens are written out in the template (``<|im_start|>``). The tokenizer's BOS alone has
    a field, since it is first in the SLAM-ASR paper and after the speech in its released code.
    """

    __pydantic_config__ = STRICT
    template: Annotated[str, Field(description="Text with {speech} exactly once.")]
    bos: Annotated[
        Literal["first", "after-speech", "none"],
        Field(description="Position of the tokenizer's BOS, where it has one; never doubled."),
    ] = "first"
    eos: Annotated[
        str,
        Field(
            description="Token that ends a transcript, where a chat model ends its turn by another "
            "than the tokenizer's."
        ),
    ] = ""
    # A SentencePiece tokenizer puts a space before a text that is tokenised alone, so that the
    # first word gets another token.
    transcript: Annotated[
        Literal["apart", "attached"],
        Field(
            description="How a transcript becomes tokens: alone, or in one string with the end of "
            "the template, as in SLAM-ASR's released code."
        ),
    ] = "apart"
    variants: Annotated[
        list[str],
        Field(
            description="Further templates: training draws one of all for each utterance and step."
        ),
    ] = field(default_factory=list)
    search: Annotated[
        Literal["first", "drawn"],
        Field(
            description="What search reads of several templates: the first, or one that is drawn "
            "by the id of the utterance."
        ),
    ] = "first"

    @model_validator(mode="after")
    def check_templates(self) -> Self:
        """Each template has one position for the speech; an attached transcript needs one template
        whose end the tokenizer keeps.
        """
        for template in (self.template, *self.variants):
            if template.count("{speech}") != 1:
                raise RuleError(
                    "template" if template == self.template else "variants",
                    f"'{template}' must have {{speech}} exactly once.",
                    "Put {speech} where the audio belongs.",
                )
        if self.transcript == "attached" and self.variants:
            raise RuleError(
                "variants",
                "several templates need a transcript that is tokenised alone.",
                "Set prompt.transcript to apart.",
            )
        if self.transcript == "attached" and self.template.endswith(" "):
            raise RuleError(
                "template",
                "it ends in a space, which tokenizers join with an attached transcript.",
                "Remove the space, or set prompt.transcript to apart.",
            )
        return self


@dataclass(frozen=True)
class LlmNumerics:
    """How an LLM is run."""

    __pydantic_config__ = STRICT
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], Field(description="Of weights and computation.")
    ]


@dataclass(frozen=True)
class LlmEntry:
    """An entry of ``catalogue/llm.yaml``."""

    __pydantic_config__ = STRICT
    source: LlmSource
    prompt: Prompt
    lora: LoraTargets
    numerics: LlmNumerics
    card: Annotated[dict[str, Any], Field(description="For people; no stage reads it.")] = field(
        default_factory=dict
    )
