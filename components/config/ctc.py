"""The section ``ctc`` of ``params.yaml``: the CTC head of an encoder that has none for its frames.

In: plain data. Out: typed, checked settings (see ``components.config.params``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from components.config.ranges import (
    BatchSeconds,
    EpochsOrNone,
    LearningRate,
    LossWeight,
    MicroBatches,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    Threads,
    Vocabulary,
    WidthOrNone,
)
from components.config.schema import STRICT, PrecisionName, Unit

KERNEL = 9  # frames that the hidden layer looks at: 0.18 s at 50 Hz, about two characters
BLOCK_KERNEL = 11  # steps that a convolution of a block looks at: 0.44 s at 25 Hz, about a word


@dataclass(frozen=True)
class Ctc:
    """The head that is trained on frozen frames, and how limits of the search are calibrated."""

    __pydantic_config__ = STRICT
    seed: Annotated[Seed, Field(description="Seed of weights, order and the drawn utterances.")]
    threads: Annotated[Threads, Field(description="Threads of a process.")]
    epochs: Annotated[
        EpochsOrNone, Field(description="Passes over the drawn speech; 0: no head is trained.")
    ]
    hours: Annotated[
        PositiveFloat, Unit("h"), Field(description="Most speech of the train role that is drawn.")
    ]
    nonspeech_share: Annotated[
        float, Field(ge=0, lt=1, description="Share of utterances that are non-speech.")
    ]
    batch_seconds: Annotated[
        BatchSeconds, Unit("s"), Field(description="Audio in a step's batch, padding counted.")
    ]
    micro_batches: Annotated[
        MicroBatches,
        Field(description="Parts of a step's batch, whatever the number of processes."),
    ]
    hidden: Annotated[
        WidthOrNone,
        Field(description="Width of the layer below the units; 0: one linear layer alone."),
    ]
    subwords: Annotated[
        Vocabulary, Field(description="Units where characters outnumber the frames.")
    ]
    learning_rate: Annotated[
        LearningRate, Field(description="Peak, after the warm-up; then cosine.")
    ]
    warmup: Annotated[NonNegativeInt, Unit("steps"), Field(description="Length of the warm-up.")]
    consistency: Annotated[
        LossWeight,
        Field(description="Weight of the divergence between two masked copies; 0: one copy."),
    ]
    precision: Annotated[
        PrecisionName,
        Field(description="Precision of the arithmetic; trained weights stay in fp32."),
    ]
    checkpoint_every: Annotated[
        PositiveInt, Unit("steps"), Field(description="Interval of checkpoints.")
    ]
    calibration: Annotated[
        Share,
        Field(description="Share of dev utterances that a limit which is 'calibrated' may fail."),
    ]
