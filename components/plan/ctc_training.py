"""Steps, memory, hours and disk of an encoder that is trained here with CTC: estimates.

In: the network by its sizes, the settings of its training, audio by source. Out: plain figures.
Operations a parameter and frame as components.plan.training counts them: 6 in training, 2 for the
statistics of batch norm. The log-mel is computed on the processor, and its time is left out. Cost:
microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.config.model_sources import CtcTraining
from components.plan.length import StageLength, epoch_seconds
from components.plan.load import LIBRARY_BYTES, LOGIT_BYTES, StageLoad, encoder_bytes, mean_seconds
from components.plan.networks import BYTES, TrainedEncoder
from components.plan.speech import AudioAmount
from components.plan.training import HALF_DTYPES, STATE_BYTES, STORED_VALUES

MEL_FRAMES_PER_SECOND = 100
MEL_BYTES = 2  # of a value: float16


@dataclass(frozen=True)
class EncoderPlan:
    """What the training of one encoder takes."""

    length: StageLength
    load: StageLoad
    example_bytes: float  # on disk until it ends: log-mel of all views


def plan_encoder(encoder: TrainedEncoder, audio: Sequence[AudioAmount]) -> EncoderPlan:
    """The training of ``encoder`` on the role train of ``audio``."""
    settings = encoder.settings
    mean_s = mean_seconds(audio, "train")
    epoch_s = epoch_seconds(settings.nonspeech_share, audio) * _stretch(settings)
    batch_s = max(settings.batch_seconds, mean_s)
    num_steps = math.ceil(settings.epochs * epoch_s / batch_s)
    seconds = num_steps * batch_s
    length = StageLength(
        f"encoder {encoder.name}", num_steps, seconds / epoch_s if epoch_s else 0.0, seconds, True
    )
    dtype = HALF_DTYPES.get(settings.precision, "float32")
    micro_s = max(mean_s, batch_s / settings.micro_batches)
    statistics_s = min(settings.statistics_batches, num_steps) * batch_s
    operations = encoder.num_parameters * encoder.size.token_rate
    load = StageLoad(
        "encoder",
        dtype,
        {dtype: operations * (6 * seconds + 2 * statistics_s)},
        0.0,
        _peak_bytes(encoder, dtype, micro_s, batch_s),
    )
    num_views = settings.epochs if settings.augment else 1
    mel_bytes = MEL_FRAMES_PER_SECOND * encoder.num_mel_bins * MEL_BYTES
    return EncoderPlan(length, load, _role_seconds(audio, settings) * num_views * mel_bytes)


def _stretch(settings: CtcTraining) -> float:
    """Seconds of a view for a second of audio, on average over the speeds."""
    speeds = settings.augment.speed if settings.augment else [1.0]
    return sum(1 / speed for speed in speeds) / len(speeds)


def _role_seconds(audio: Sequence[AudioAmount], settings: CtcTraining) -> float:
    """Seconds of all that is computed: speech, and all of the non-speech, of one view."""
    roles = ("train", "nonspeech-train")
    return sum(amount.seconds for amount in audio if amount.role in roles) * _stretch(settings)


def _peak_bytes(encoder: TrainedEncoder, dtype: str, micro_s: float, batch_s: float) -> float:
    """Bytes of a process: fp32 weights, their states, and what a micro-batch stores for the
    backward pass, or what a batch computes at once for the statistics of batch norm.
    """
    size = encoder.size
    stored_values = micro_s * size.token_rate * size.width * size.num_layers * STORED_VALUES
    logit_bytes = micro_s * size.token_rate * encoder.num_units * LOGIT_BYTES
    training_bytes = (
        encoder_bytes(size, micro_s, "float32") + stored_values * BYTES[dtype] + logit_bytes
    )
    if dtype != "float32":  # autocast's copies of the weights
        training_bytes += encoder.num_parameters * BYTES[dtype]
    statistics_bytes = encoder_bytes(size, batch_s, "float32")
    return (
        max(training_bytes, statistics_bytes) + encoder.num_parameters * STATE_BYTES + LIBRARY_BYTES
    )
