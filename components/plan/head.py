"""The CTC head that the stage ``ctc`` trains on frozen frames: its parameters, memory and hours on
one accelerator.

In: parameters, networks, audio by source. Out: a count, and a load; none where the encoder has a
head of its own. Operations a parameter and frame as in components.plan.training. Cost:
microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.config import catalogue
from components.config.ctc import KERNEL
from components.config.params import Params
from components.config.projector import CtcEmbeddings
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
from components.plan.networks import BYTES, CHARACTERS, Networks
from components.plan.speech import AudioAmount

DTYPE = "float32"  # of the head
STORED_VALUES = 4  # of a frame and unit of the hidden layer, for the backward pass
BLOCK_VALUES = 3  # times as many of a block: its gate and its feed-forward module are twice as wide


def count_head_parameters(params: Params, networks: Networks) -> int:
    """Parameters of the head (``components.model.encoders.trained_head``) over characters, or of
    the one that the bridge consists of; 0 where none is trained.
    """
    if isinstance(catalogue.projector(params.projector), CtcEmbeddings):
        return sum(networks.bridge.bridge.values())
    if not params.ctc.epochs or (networks.encoder.has_ctc and params.features.layer == "last"):
        return 0
    width, hidden = networks.encoder.width, params.ctc.hidden
    layers = hidden * (width + 1) + hidden * (KERNEL * hidden + 1) if hidden else 0
    return 2 * width + layers + CHARACTERS * ((hidden or width) + 1)


def estimate_head(
    params: Params, networks: Networks, audio: Sequence[AudioAmount], encoder_dtype: str
) -> StageLoad | None:
    """The stage ctc; None where no head is trained. Limits that are calibrated add a pass over dev,
    which is counted where frames are live.
    """
    settings, num_parameters = params.ctc, count_head_parameters(params, networks)
    if not num_parameters:
        return None
    speech = [amount for amount in audio if amount.role == "train"]
    share = drawn_share(speech, settings.hours)
    passes = share * settings.epochs / (1 - settings.nonspeech_share)
    frame_seconds = sum(output_seconds(networks, amount) for amount in speech) * passes
    bridge = catalogue.projector(params.projector)
    stride, hidden = 1, settings.hidden
    if isinstance(bridge, CtcEmbeddings):
        stride = bridge.stride
        hidden = BLOCK_VALUES * bridge.blocks * bridge.hidden // stride
    steps = frame_seconds * networks.encoder.frame_rate / stride
    step_s = settings.batch_seconds / settings.micro_batches
    if networks.encoder.traits.uses_full_window:
        step_s = max(step_s, networks.encoder.window_s)
    copies = 2 if settings.consistency else 1
    step_frames = step_s * networks.encoder.frame_rate * copies
    frame_values = 2 * networks.encoder.width + STORED_VALUES * hidden
    peak_bytes = LIBRARY_BYTES + BYTES[DTYPE] * (4 * num_parameters + step_frames * frame_values)
    encoding = 0.0
    if params.features.mode == "live":
        encoding = passes * sum(encoded_seconds(networks, amount) for amount in speech)
        if any(constraints.needs_calibration for constraints in params.decode.sets.values()):
            dev = [amount for amount in audio if amount.role == "dev"]
            encoding += sum(encoded_seconds(networks, amount) for amount in dev)
        batch_seconds = max(settings.batch_seconds, networks.encoder.window_s)
        peak_bytes += encoder_bytes(networks.encoder, batch_seconds, encoder_dtype)
    return StageLoad(
        "ctc",
        DTYPE,
        sum_by_dtype(
            (DTYPE, 6 * num_parameters * steps * copies),
            (frozen_arithmetic(params, encoder_dtype), encoder_operations(networks, encoding)),
        ),
        0.0,
        peak_bytes,
    )
