"""The k-means that the stage ``units`` fits for a bridge of discrete units: its memory and hours on
one accelerator.

In: parameters, networks, audio by source. Out: a load; None for a bridge of another kind.
Operations a frame, unit and value in each pass: 4 in fp64, those of the distances and of the sums
(``components.units.kmeans``); the choice of the first centroids is left out. Cost: microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.config import catalogue
from components.config.params import Params
from components.config.projector import DiscreteUnits
from components.plan.load import (
    LIBRARY_BYTES,
    StageLoad,
    drawn_share,
    encoded_seconds,
    encoder_bytes,
    encoder_operations,
    frozen_arithmetic,
    output_seconds,
    sum_by_dtype,
)
from components.plan.networks import BYTES, Networks
from components.plan.speech import AudioAmount

DTYPE = "float64"


def estimate_units(
    params: Params, networks: Networks, audio: Sequence[AudioAmount], encoder_dtype: str
) -> StageLoad | None:
    """The stage units, with all passes that it may take; None where no units are fitted. Frames of
    mode live are computed once.
    """
    entry, encoder = catalogue.projector(params.projector), networks.encoder
    if not isinstance(entry, DiscreteUnits):
        return None
    speech = [amount for amount in audio if amount.role == "train"]
    share = drawn_share(speech, entry.hours)
    frame_seconds = share * sum(output_seconds(networks, amount) for amount in speech)
    num_values = frame_seconds * encoder.frame_rate * encoder.width
    peak_bytes = LIBRARY_BYTES + BYTES["float32"] * num_values
    encoding = 0.0
    if params.features.mode == "live":
        encoding = share * sum(encoded_seconds(networks, amount) for amount in speech)
        batch_seconds = max(params.features.batch_seconds, encoder.window_s)
        peak_bytes += encoder_bytes(encoder, batch_seconds, encoder_dtype)
    return StageLoad(
        "units",
        DTYPE,
        sum_by_dtype(
            (DTYPE, 4 * entry.iterations * entry.units * num_values),
            (frozen_arithmetic(params, encoder_dtype), encoder_operations(networks, encoding)),
        ),
        0.0,
        peak_bytes,
    )
