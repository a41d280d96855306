"""Settings that the sources of synthetic speech share; ranges are [lowest, highest].

In: plain data of a catalogue entry. Out: annotated types for the dataclasses of the kinds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from components.config.augment import SpeedFactors
from components.config.ranges import PauseSeconds, TempoFactor
from components.config.schema import DecibelLimits, Unit, check_order
from components.corpus.generation.espeak import ACCENTS

Tempo = Annotated[
    SpeedFactors, Field(description="Of tempo and pitch together, by resampling; one is drawn.")
]
Speed = Annotated[
    list[TempoFactor],
    Field(min_length=2, max_length=2),
    AfterValidator(check_order),
    Field(description="Lowest and highest, 1 for the model's own."),
]
MarginSeconds = Annotated[
    list[PauseSeconds],
    Field(min_length=2, max_length=2),
    AfterValidator(check_order),
    Unit("s"),
    Field(description="Shortest and longest noise floor before and after."),
]
FloorLevel = Annotated[
    DecibelLimits, Field(description="Level of the recording's noise floor, of full scale.")
]
Accents = Annotated[
    list[Literal[*ACCENTS]],  # type: ignore[valid-type]
    Field(min_length=1, description="Of espeak-ng's English; one is drawn."),
]
