"""Types of numbers with their ranges, for the fields of parameters, catalogue entries and settings.

A field says ``Annotated[Steps, Field(description=…)]``: the range is a part of the type, and the
reference pages print it. Upper limits are ten times and more beyond any use: they stop a slip of
the keyboard before it takes all memory or never ends.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

# Counts and quantities whose size costs nothing: 10^9 seconds are 32 years.
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e9)]

Share = Annotated[float, Field(ge=0, le=1)]
# Share of values that dropout sets to 0; all of them would leave nothing.
Dropout = Annotated[float, Field(ge=0, lt=1)]
# Generators of random numbers take 32 bits.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
NumBytes = Annotated[int, Field(gt=0, le=10**18)]
# A limit of values in single precision, which ends at 3.4e38.
LargestValue = Annotated[float, Field(gt=0, le=3.4e38)]

# Of a run.
Threads = Annotated[int, Field(gt=0, le=1024)]
Steps = Annotated[int, Field(gt=0, le=10**8)]
Epochs = Annotated[int, Field(gt=0, le=10**4)]  # batches of all are listed in memory
EpochsOrNone = Annotated[int, Field(ge=0, le=10**4)]
PartialEpochs = Annotated[float, Field(gt=0, le=1e5)]
LearningRate = Annotated[float, Field(gt=0, le=1e30)]  # a training that diverges says so
WeightDecay = Annotated[float, Field(ge=0, le=10)]
BatchSeconds = Annotated[float, Field(gt=0, le=1e5)]  # 28 hours
MicroBatches = Annotated[int, Field(gt=0, le=10**4)]
LossWeight = Annotated[float, Field(ge=0, le=1e6)]
Views = Annotated[int, Field(gt=0, le=1000)]
Masks = Annotated[int, Field(ge=0, le=1000)]
Processes = Annotated[int, Field(ge=0, le=10**4)]
Machines = Annotated[int, Field(gt=0, le=10**4)]

# Of a network.
Width = Annotated[int, Field(gt=0, le=10**5)]
WidthOrNone = Annotated[int, Field(ge=0, le=10**5)]
Layers = Annotated[int, Field(gt=0, le=1000)]
LayerIndex = Annotated[int, Field(ge=0, le=1000)]
Frames = Annotated[int, Field(gt=0, le=10**5)]  # 33 minutes at 50 Hz
Vocabulary = Annotated[int, Field(gt=0, le=10**6)]
VocabularyOrNone = Annotated[int, Field(ge=0, le=10**6)]

# Of a search.
Beams = Annotated[int, Field(gt=0, le=1000)]
BeamsOrNone = Annotated[int, Field(ge=0, le=1000)]
Tokens = Annotated[int, Field(gt=0, le=10**5)]
Exponent = Annotated[float, Field(ge=0, le=100)]
PenaltyFactor = Annotated[float, Field(gt=0, le=100)]
Resamples = Annotated[int, Field(ge=0, le=10**6)]

# Of a corpus.
GeneratedClips = Annotated[int, Field(gt=0, le=10**7)]  # they are listed in memory
ClipSeconds = Annotated[float, Field(gt=0, le=1e5)]
PauseSeconds = Annotated[float, Field(ge=0, le=3600)]
WordsInRow = Annotated[int, Field(gt=0, le=1000)]
TempoFactor = Annotated[float, Field(gt=0, le=100)]
SampleRate = Annotated[int, Field(ge=1000, le=768_000)]
