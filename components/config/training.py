"""The section ``train`` of ``params.yaml``: how the bridge is trained.

In: plain data. Out: typed, checked settings (see ``components.config.params``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.config.augment import SpecAugment
from components.config.entries import Prompt
from components.config.ranges import (
    BatchSeconds,
    Dropout,
    LearningRate,
    LossWeight,
    MicroBatches,
    NonNegativeFloat,
    NonNegativeInt,
    PartialEpochs,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    Steps,
    Threads,
    WeightDecay,
    Width,
)
from components.config.schema import STRICT, PrecisionName, RuleError, Unit

SHORT_EPOCHS = 0.5  # of a whole training; below, half of the speech is not seen once
Part = Literal["projector", "lora", "llm", "encoder-lora", "encoder"]
PeakRate = Annotated[LearningRate, Field(description="Peak learning rate.")]


@dataclass(frozen=True)
class Matching:
    """The matching loss, between projected frames and text embeddings."""

    __pydantic_config__ = STRICT
    weight: Annotated[
        LossWeight, Field(description="Weight beside cross-entropy; 0: no such loss.")
    ]
    mse: Annotated[LossWeight, Field(description="Weight of the squared distance in it.")]
    cosine: Annotated[LossWeight, Field(description="Weight of 1 - cosine in it.")]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685)."""

    __pydantic_config__ = STRICT
    rank: Annotated[Width, Field(description="Rank of the two factors.")]
    alpha: Annotated[Width, Field(description="The update is scaled by alpha / rank.")]
    dropout: Annotated[Dropout, Field(description="Dropout before the first factor.")]
    learning_rate: PeakRate
    targets: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="Last parts of the names of the layers; null: those of the entry.",
        ),
    ] = None


@dataclass(frozen=True)
class Full:
    """Learning rates of parts that are tuned with all their weights."""

    __pydantic_config__ = STRICT
    encoder: PeakRate
    llm: PeakRate


@dataclass(frozen=True)
class CurriculumStage:
    """One stage of training; it starts from the checkpoint that the stage before it selected."""

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(description="Name of the stage.")]
    tune: Annotated[list[Part], Field(min_length=1, description="Parts that are trained.")]
    learning_rate: Annotated[
        LearningRate, Field(description="Peak, of the projector and the matching head.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    decay: Annotated[
        Literal["constant", "linear", "cosine"],
        Field(description="Course of the learning rate after the warm-up."),
    ]
    nonspeech_share: Annotated[
        Share,
        Field(description="Share of utterances that are non-speech with an empty transcript."),
    ]
    freeze: Annotated[
        list[str],
        Field(description="Patterns of parameter names that stay fixed although a part is tuned."),
    ]
    steps: Annotated[
        Steps | None, Field(description="Optimiser steps; null where epochs are given.")
    ] = None
    epochs: Annotated[
        PartialEpochs | None,
        Field(
            description="Passes over the training speech (over non-speech where a stage has "
            "nothing else), the last one in part; null where steps are given."
        ),
    ] = None
    decay_steps: Annotated[
        Steps | None,
        Unit("steps"),
        Field(description="Where linear and cosine decay reach 0, if not at the end of the stage."),
    ] = None

    reads: Annotated[
        Literal["speech", "text"],
        Field(
            description="What the LLM reads: speech in its prompt, or transcripts alone, as a "
            "language model does."
        ),
    ] = "speech"

    @model_validator(mode="after")
    def check_length(self) -> Self:
        """A stage has one length."""
        if (self.steps is None) == (self.epochs is None):
            wrong = "no length" if self.steps is None else "steps and epochs"
            raise RuleError(
                "steps",
                f"stage '{self.name}' has {wrong}.",
                "Give it steps or epochs; the other is left out or null.",
            )
        return self

    @model_validator(mode="after")
    def check_text(self) -> Self:
        """Text alone trains the LLM, and non-speech has none."""
        if self.reads == "text" and not {"lora", "llm"}.issuperset(self.tune):
            raise RuleError(
                "tune",
                f"stage '{self.name}' reads text, of which encoder and projector learn nothing.",
                "Tune lora or llm.",
            )
        if self.reads == "text" and self.nonspeech_share:
            raise RuleError(
                "nonspeech_share",
                f"stage '{self.name}' reads text, and non-speech has none.",
                "Set it to 0.",
            )
        return self

    @model_validator(mode="after")
    def check_parts(self) -> Self:
        """LoRA of a network and all its weights are not tuned in one stage."""
        for lora, network in (("lora", "llm"), ("encoder-lora", "encoder")):
            if {lora, network} <= set(self.tune):
                raise RuleError(
                    "tune",
                    f"stage '{self.name}' tunes '{lora}' and '{network}' at once.",
                    "Name one of them, or tune them in two stages.",
                )
        return self


@dataclass(frozen=True)
class Concatenate:
    """Utterances that are joined to longer ones."""

    __pydantic_config__ = STRICT
    share: Annotated[Share, Field(description="Share of an epoch's utterances.")]
    seconds: Annotated[
        NonNegativeFloat, Unit("s"), Field(description="Longest utterance that results.")
    ]

    @model_validator(mode="after")
    def check_length(self) -> Self:
        """Joined utterances need a length."""
        if self.share and not self.seconds:
            raise RuleError(
                "seconds",
                f"concatenate.share is {self.share:g}, but the joined length is 0.",
                "Set the longest length, or set concatenate.share to 0.",
            )
        return self


@dataclass(frozen=True)
class Selection:
    """How the checkpoint of a stage is selected: by the decoded word error rate on dev."""

    __pydantic_config__ = STRICT
    every: Annotated[PositiveInt, Unit("steps"), Field(description="Interval of checkpoints.")]
    patience: Annotated[
        NonNegativeInt,
        Unit("checkpoints"),
        Field(description="A stage ends after so many without a better one; 0: never."),
    ]
    utterances: Annotated[
        PositiveInt, Field(description="Decoded of each dev source, drawn over all its speakers.")
    ]


@dataclass(frozen=True)
class Train:
    """Training of the bridge."""

    __pydantic_config__ = STRICT
    seed: Annotated[
        Seed, Field(description="Seed of weights, order, dropout and the dev utterances.")
    ]
    threads: Annotated[Threads, Field(description="Threads of a process.")]
    text_case: Annotated[
        Literal["lower", "as-is"], Field(description="Letter case of the targets.")
    ]
    batch_seconds: Annotated[
        BatchSeconds, Unit("s"), Field(description="Audio in a step's batch, padding counted.")
    ]
    batch_tokens: Annotated[
        NonNegativeInt,
        Unit("tokens of the LLM"),
        Field(description="Most in a step's batch, padding counted; 0: no limit."),
    ]
    micro_batches: Annotated[
        MicroBatches,
        Field(description="Parts of a step's batch, whatever the number of processes."),
    ]
    packing: Annotated[
        bool, Field(description="Whether the sequences of a part share one row without padding.")
    ]
    precision: Annotated[
        PrecisionName,
        Field(description="Precision of the arithmetic; trained weights stay in fp32."),
    ]
    gradient_checkpointing: Annotated[
        bool, Field(description="Whether the LLM's activations are computed again.")
    ]
    spike: Annotated[
        NonNegativeFloat,
        Field(description="Loss, in medians of the last 100 steps, that stops the run; 0: never."),
    ]
    window_shards: Annotated[
        PositiveInt, Unit("shards"), Field(description="Window in which utterances are shuffled.")
    ]
    max_seconds: Annotated[
        PositiveFloat, Unit("s"), Field(description="Longer training utterances are left out.")
    ]
    weight_decay: Annotated[WeightDecay, Field(description="Weight decay of AdamW.")]
    clip: Annotated[PositiveFloat, Field(description="Largest norm of the gradient.")]
    matching: Matching
    lora: Annotated[Lora, Field(description="Of the LLM.")]
    encoder_lora: Lora
    full: Full
    ctc_weight: Annotated[
        LossWeight,
        Field(description="Weight of the encoder's CTC loss in stages that tune it; 0: none."),
    ]
    spec_augment: SpecAugment
    frame_noise: Annotated[
        LossWeight,
        Field(
            description="Noise on the frames that the bridge reads in training, in standard "
            "deviations of each of their values; 0: none."
        ),
    ]
    concatenate: Concatenate
    text_mask: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the transcript's input tokens that are replaced."),
    ]
    curriculum: Annotated[
        list[CurriculumStage], Field(min_length=1, description="Stages, run in order.")
    ]
    selection: Selection
    start: Annotated[
        str | None,
        Field(
            description="Bridge below LIBRETTO_MODELS that the training starts from: a folder, an "
            "exported model, or a model.pt of SLAM-LLM; null: random weights."
        ),
    ] = None
    prompt: Annotated[
        Prompt | None, Field(description="In place of the prompt of the LLM's entry; null: none.")
    ] = None

    @property
    def tuned_encoder_part(self) -> Part | None:
        """The first part of the encoder that a stage tunes; None where it stays frozen in all."""
        parts = (part for stage in self.curriculum for part in stage.tune)
        return next((part for part in parts if part in ("encoder", "encoder-lora")), None)

    @property
    def has_text_adapter(self) -> bool:
        """Whether the LLM's LoRA has read text alone since it was there."""
        reads = [stage.reads for stage in self.curriculum if "lora" in stage.tune]
        return set(reads) == {"text"} and self.start is None

    @model_validator(mode="after")
    def check_losses(self) -> Self:
        """A threshold for spikes is above the median; a CTC loss needs an encoder that is tuned."""
        if 0 < self.spike <= 1:
            raise RuleError(
                "spike",
                f"{self.spike:g} times the median would stop a run that works.",
                "Set it above 1, or to 0 for no limit.",
            )
        if self.ctc_weight and not self.tuned_encoder_part:
            raise RuleError(
                "ctc_weight",
                f"it is {self.ctc_weight:g}, but the encoder stays frozen in every stage.",
                "Tune 'encoder' or 'encoder-lora', or set it to 0.",
            )
        return self


def needs_live_features(part: Part | None = None) -> tuple[str, str]:
    """(message, hint) where a part of the encoder is tuned and the features are cached."""
    return (
        f"{part or 'the encoder'} is tuned, but cached features are those of the encoder before "
        "training.",
        "Set features.mode to live.",
    )
