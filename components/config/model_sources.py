"""Where the checkpoints of encoders and LLMs come from: a hub, a local folder, or a training here.

In: the part ``source`` of a catalogue entry as plain data. Out: typed, checked settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from components.config.augment import AddedNoise, Band, SpecAugment, SpeedFactors
from components.config.schema import STRICT, DecibelLimits, RuleError, Seed, Share, Unit

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
    epochs: Annotated[PositiveInt, Field(description="Passes over the train role.")]
    batch_seconds: Annotated[
        PositiveFloat, Unit("s"), Field(description="Audio in a step, padding counted.")
    ]
    micro_batches: Annotated[PositiveInt, Field(description="Parts of a step's batch.")]
    threads: Annotated[PositiveInt, Field(description="Threads of a process.")]
    window_shards: Annotated[
        PositiveInt, Unit("shards"), Field(description="Window in which utterances are shuffled.")
    ]
    learning_rate: Annotated[
        PositiveFloat, Field(description="Peak, after the warm-up; then cosine.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    weight_decay: Annotated[NonNegativeFloat, Field(description="Weight decay of AdamW.")]
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
        NonNegativeInt,
        Field(
            description="Subwords of the targets; 0: characters, which need frames of 40 ms or "
            "less."
        ),
    ] = 0


@dataclass(frozen=True)
class CopyingTraining:
    """How an LLM is trained here (``components.llm.copying``)."""

    __pydantic_config__ = STRICT
    seed: Annotated[Seed, Field(description="Seed of initial weights and texts.")]
    units: Annotated[PositiveInt, Field(description="Size of the BPE vocabulary.")]
    steps: Annotated[PositiveInt, Field(description="Optimiser steps.")]
    batch: Annotated[PositiveInt, Unit("texts"), Field(description="Texts in a step.")]
    micro_batches: Annotated[PositiveInt, Field(description="Parts of a step's batch.")]
    threads: Annotated[PositiveInt, Field(description="Threads of a process.")]
    learning_rate: Annotated[
        PositiveFloat, Field(description="Peak, after the warm-up; then cosine.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    weight_decay: Annotated[NonNegativeFloat, Field(description="Weight decay of AdamW.")]
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


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint comes from: ``hub`` (a pinned one of a model hub), ``folder`` (a local
    one), or a training here.
    """

    __pydantic_config__ = STRICT
    kind: str
    repo: Annotated[str, Field(description="hub: owner/name.")] = ""
    revision: Annotated[str, Field(description="hub: the commit, 40 hex digits.")] = ""
    files: Annotated[list[str], Field(description="hub: what is fetched of it.")] = field(
        default_factory=list
    )
    folder: Annotated[str, Field(description="folder: path below LIBRETTO_MODELS.")] = ""
    shape: Annotated[
        dict[str, Any],
        Field(description="hub, folder: what its config.json must say; plans are made from it."),
    ] = field(default_factory=dict)
    gigabytes: Annotated[
        NonNegativeFloat,
        Unit("10^9 bytes"),
        Field(description="hub: size of the files, where shape does not tell it."),
    ] = 0.0

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        """Each kind has the fields that it needs; a hub's source is a repository at a commit, of
        files that are read here.
        """
        for key in REQUIRED_KEYS[self.kind]:
            if not getattr(self, key):
                raise RuleError(
                    key, f"a source of kind '{self.kind}' needs a value.", f"Add '{key}'."
                )
        if self.kind == "hub":
            _check_hub(self)
        return self


REQUIRED_KEYS = {
    "hub": ("repo",),
    "folder": ("folder",),
    "ctc": ("config", "training"),
    "copying": ("config", "training"),
    "fbank": ("config",),
    "joined": ("parts",),
}


def _check_hub(source: CheckpointSource) -> None:
    """What can be said of a hub source without asking the hub."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source.repo, re.ASCII):
        raise RuleError("repo", f"'{source.repo}' is no repository.", "It reads owner/name.")
    if source.revision and not re.fullmatch(r"[0-9a-f]{40}", source.revision):
        raise RuleError(
            "revision",
            f"'{source.revision}' is no commit of 40 hex digits.",
            "A branch or a tag may move: write the commit.",
        )
    for file in source.files:
        if not FETCHED.fullmatch(file):
            raise RuleError(
                "files",
                f"'{file}' is not fetched.",
                "Weights (safetensors, pytorch_model.bin) and plain descriptions are; code and "
                "other pickles are not.",
            )
    if {file.rpartition(".")[2] for file in source.files} >= {"safetensors", "bin"}:
        raise RuleError(
            "files",
            "the weights are listed twice.",
            "List the safetensors and remove the .bin.",
        )


@dataclass(frozen=True)
class EncoderSource(CheckpointSource):
    """Where an encoder comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a
    local checkpoint), ``ctc`` (trained here on the train role), ``fbank`` (none: log-mel) or
    ``joined`` (several, whose frames are concatenated).
    """

    kind: Annotated[
        Literal["hub", "folder", "ctc", "fbank", "joined"], Field(description="Kind of source.")
    ]
    config: Annotated[
        dict[str, Any],
        Field(description="ctc: architecture of the network; fbank: settings of the log-mel."),
    ] = field(default_factory=dict)
    training: Annotated[CtcTraining | None, Field(description="ctc: how it is trained.")] = None
    parts: Annotated[
        dict[str, EncoderSource],
        Field(description="joined: the sources by name; the first sets the frame rate."),
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class LlmSource(CheckpointSource):
    """Where an LLM comes from: ``hub`` (a pinned checkpoint of a model hub), ``folder`` (a local
    checkpoint) or ``copying`` (trained here to copy and clean text).
    """

    kind: Annotated[Literal["hub", "folder", "copying"], Field(description="Kind of source.")]
    model_type: Annotated[
        str, Field(description="copying: name of an architecture of transformers.")
    ] = ""
    config: Annotated[dict[str, Any], Field(description="copying: settings of it.")] = field(
        default_factory=dict
    )
    training: Annotated[
        CopyingTraining | None, Field(description="copying: how it is trained.")
    ] = None
