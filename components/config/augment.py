"""Settings of augmentation: how waveforms and frames are changed in training.

In: plain data of ``params.yaml`` or of an encoder's catalogue entry. Out: typed, checked settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from components.config.ranges import Masks, NonNegativeInt, Seed, Share, Views
from components.config.schema import STRICT, DecibelLimits, RuleError, Unit, check_order

# A limit below 500 Hz leaves no speech; one of 8,000 Hz removes nothing at 16 kHz.
FrequencyLimits = Annotated[
    list[Annotated[float, Field(ge=500, lt=8000)]],
    Field(min_length=2, max_length=2),
    AfterValidator(check_order),
    Unit("Hz"),
]
SpeedFactors = Annotated[list[Annotated[float, Field(ge=0.5, le=2)]], Field(min_length=1)]


@dataclass(frozen=True)
class AddedNoise:
    """Clips of noise added to speech."""

    __pydantic_config__ = STRICT
    probability: Annotated[Share, Field(description="For an utterance to get noise.")]
    snr_db: Annotated[
        DecibelLimits,
        Field(description="Least and most power of speech over that of the noise."),
    ]


@dataclass(frozen=True)
class Rooms:
    """Impulse responses of rooms that speech is convolved with."""

    __pydantic_config__ = STRICT
    probability: Annotated[Share, Field(description="For an utterance to get a room.")]


@dataclass(frozen=True)
class Band:
    """Recordings of other bandwidths: frequencies above a limit are removed."""

    __pydantic_config__ = STRICT
    probability: Annotated[Share, Field(description="For an utterance to get a limit.")]
    hertz: Annotated[
        FrequencyLimits,
        Field(description="Lowest and highest limit; a recording at 8 kHz ends at 4,000."),
    ]


@dataclass(frozen=True)
class Augment:
    """How waveforms of training are changed (components/audio/augmentation.py)."""

    __pydantic_config__ = STRICT
    seed: Annotated[Seed, Field(description="Seed of the random draws.")]
    views: Annotated[
        Views,
        Field(description="Versions of an utterance that are stored, with cached features."),
    ]
    speed: Annotated[SpeedFactors, Field(description="Factors of tempo and pitch together.")]
    level_db: Annotated[DecibelLimits, Field(description="Least and most gain.")]
    noise: AddedNoise
    rooms: Rooms
    band: Band

    @property
    def is_enabled(self) -> bool:
        """Whether anything is changed at all."""
        probabilities = (self.noise.probability, self.rooms.probability, self.band.probability)
        return self.speed != [1] or self.level_db != [0, 0] or max(probabilities) > 0

    @model_validator(mode="after")
    def check_views(self) -> Self:
        """Several views of an utterance that nothing changes would be the same."""
        if self.views > 1 and not self.is_enabled:
            raise RuleError(
                "views",
                f"{self.views} views of the same waveform would be stored.",
                "Set it to 1, or switch an augmentation on.",
            )
        return self


@dataclass(frozen=True)
class SpecAugment:
    """Masks over time and width of frames (SpecAugment, arXiv 1904.08779)."""

    __pydantic_config__ = STRICT
    enabled: Annotated[bool, Field(description="Whether masks are applied.")]
    time_masks: Annotated[Masks, Field(description="Masks over time, per utterance.")]
    time_frames: Annotated[
        NonNegativeInt,
        Unit("frames of the encoder"),
        Field(description="Longest mask over time."),
    ]
    width_masks: Annotated[Masks, Field(description="Masks over width, per utterance.")]
    width_share: Annotated[
        Share, Field(description="Longest mask over width, as a share of the width.")
    ]
