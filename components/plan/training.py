"""Memory and hours of the training on one accelerator: estimates, stage by stage of the curriculum.

In: networks, audio by source, the train section, how many ranks share the LLM. Out: one load: all
operations, the peak of one process. Operations a parameter and token (Kaplan et al. 2020, arXiv
2001.08361, section 2.1): 2 forward, 2 for the gradient that passes through, 2 more for that of a
weight which is tuned, 2 more where activations are computed again. Cost: microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.config.params import Params
from components.config.training import Train
from components.plan.length import StageLength, list_stage_lengths, step_seconds
from components.plan.load import (
    LIBRARY_BYTES,
    LOGIT_BYTES,
    TEXT_TOKENS,
    StageLoad,
    count_tokens,
    encoded_seconds,
    encoder_bytes,
    encoder_operations,
    frozen_arithmetic,
    generation_steps,
    mean_seconds,
    sum_by_dtype,
)
from components.plan.networks import BYTES, Networks
from components.plan.speech import AudioAmount
from components.plan.tuning import ModuleCounts

HALF_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}  # by train.precision
# Values that a layer stores for the backward pass, a token and unit of width: 34 bytes in half
# precision (Korthikanti et al. 2022, arXiv 2205.05198, section 4, without the attention matrix,
# which fused kernels never store). Frozen layers store less.
STORED_VALUES = 17
# Of them the layer's input, which is all that gradient checkpointing stores (Chen et al. 2016,
# arXiv 1604.06174).
STORED_INPUTS = 1
# Bytes of a trained parameter besides its fp32 weight: gradient and AdamW's two moments in fp32.
STATE_BYTES = 12
# Layers of a shared LLM that a rank has in full: the one that runs, and the next, which is gathered
# meanwhile (FSDP2).
GATHERED_LAYERS = 2


@dataclass(frozen=True)
class _Training:
    """What all estimates of a training depend on."""

    settings: Train
    networks: Networks
    mean_s: float  # seconds of an utterance
    fill: float  # seconds that the encoder computes for one of audio: windows that are filled up
    dtype: str  # of the LLM's weights
    compute_dtype: str  # of the LLM's arithmetic
    encoder_dtype: str  # of the encoder's weights
    frozen_arithmetic: str  # of an encoder that is not tuned
    encoder_compute_dtype: str
    num_sharing: int  # ranks that share the LLM's layers
    lengths: list[StageLength]  # by stage of the curriculum


def estimate_train(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    dtype: str,
    encoder_dtype: str,
    num_sharing: int = 1,
) -> StageLoad:
    """The stage train; ``dtype`` and ``encoder_dtype`` are those of the weights, ``num_sharing`` is
    the number of ranks that share the LLM's layers.
    """
    settings = params.train
    speech = [amount for amount in audio if amount.role == "train"]
    num_seconds = sum(amount.seconds for amount in speech) or 1.0
    training = _Training(
        settings,
        networks,
        mean_seconds(audio, "train"),
        sum(encoded_seconds(networks, amount) for amount in speech) / num_seconds,
        dtype,
        HALF_DTYPES.get(settings.precision, dtype),
        encoder_dtype,
        frozen_arithmetic(params, encoder_dtype),
        HALF_DTYPES.get(settings.precision, encoder_dtype),
        num_sharing,
        list_stage_lengths(settings, networks, audio),
    )
    is_live = params.features.mode == "live"
    blocks = networks.bridge.block_parameters
    step_bytes = networks.llm.num_parameters * BYTES[dtype] + blocks * BYTES["float32"]
    peak_bytes = _llm_bytes(training) + _state_bytes(networks, num_sharing) + LIBRARY_BYTES
    if is_live:
        peak_bytes += _encoder_bytes(training)
    return StageLoad(
        "train",
        training.compute_dtype,
        _operations(training, is_live),
        _dev_steps(training, audio) * step_bytes,
        peak_bytes,
    )


def _operations(training: _Training, is_live: bool) -> dict[str, float]:
    """Operations by dtype: of the LLM and the bridge, and of an encoder that computes live."""
    settings, networks, mean_s = training.settings, training.networks, training.mean_s
    recomputes = settings.gradient_checkpointing
    step_s = step_seconds(settings, networks, mean_s)
    llm, frozen, tuned = 0.0, 0.0, 0.0  # operations of the LLM, of a frozen and of a tuned encoder
    stages = zip(settings.curriculum, training.lengths, networks.stages, strict=True)
    for stage, length, counts in stages:
        num_utterances = length.num_steps * step_s / mean_s
        if stage.reads == "text":
            tokens = num_utterances * mean_s * TEXT_TOKENS
            llm += tokens * (4 + 2 * recomputes) * networks.sequence_parameters
            llm += tokens * 2 * counts.get("llm", 0)
            continue
        tokens = num_utterances * count_tokens(networks, mean_s)
        projector = counts.get("projector", 0)
        blocks = min(projector, networks.bridge.block_parameters)  # tuned ones, in the LLM
        llm += tokens * (4 + 2 * recomputes) * networks.sequence_parameters
        llm += tokens * 2 * (counts.get("llm", 0) + blocks)
        llm += 6 * num_utterances * networks.speech_tokens(mean_s) * (projector - blocks)
        if is_live:
            forward = encoder_operations(networks, num_utterances * mean_s * training.fill)
            if _tunes_encoder(counts):
                num_parameters = max(1, networks.encoder.num_parameters)
                tuned += (2 + recomputes + counts.get("encoder", 0) / num_parameters) * forward
            else:
                frozen += forward
    return sum_by_dtype(
        (training.compute_dtype, llm),
        (training.frozen_arithmetic, frozen),
        (training.encoder_compute_dtype, tuned),
    )


def _tunes_encoder(counts: ModuleCounts) -> bool:
    """Whether a stage of the curriculum tunes the encoder, or LoRA in it."""
    return counts.get("encoder", 0) + counts.get("encoder-lora", 0) > 0


def _dev_steps(training: _Training, audio: Sequence[AudioAmount]) -> float:
    """Steps of greedy search on dev, at each checkpoint: each step reads the weights once for a
    batch of utterances.
    """
    settings, selection = training.settings, training.settings.selection
    num_checkpoints = sum(
        math.ceil(length.num_steps / selection.every) for length in training.lengths
    )
    return num_checkpoints * sum(
        generation_steps(
            training.networks,
            amount,
            min(selection.utterances, amount.num_utterances),
            2 * settings.batch_seconds,
        )
        for amount in audio
        if amount.role == "dev"
    )


def _micro_batch_seconds(training: _Training) -> float:
    """Seconds of audio in a micro-batch: at least those of an utterance, a concatenated one where
    utterances are concatenated.
    """
    settings = training.settings
    concatenated_s = settings.concatenate.seconds * bool(settings.concatenate.share)
    seconds = step_seconds(settings, training.networks, training.mean_s)
    return max(training.mean_s, concatenated_s, seconds / settings.micro_batches)


def _stored_values(num_layers: int, recomputes: bool) -> int:
    """Values that all layers store, a token and unit of width: with gradient checkpointing their
    inputs, and all of the one that is computed.
    """
    if recomputes:
        return num_layers * STORED_INPUTS + STORED_VALUES
    return num_layers * STORED_VALUES


def _llm_bytes(training: _Training) -> float:
    """Bytes of the LLM's weights on a rank, and of what it stores of a micro-batch."""
    llm, recomputes = training.networks.llm, training.settings.gradient_checkpointing
    num_sharing, seconds = training.num_sharing, _micro_batch_seconds(training)
    layer = llm.layer_parameters / llm.num_layers
    unshared = llm.num_parameters - llm.layer_parameters
    gathered = GATHERED_LAYERS * layer if num_sharing > 1 else 0
    weight_bytes = (unshared + llm.layer_parameters / num_sharing + gathered) * BYTES[
        training.dtype
    ]
    if training.compute_dtype != training.dtype:
        # Autocast stores a copy of each weight for the backward pass, unless the layer is computed
        # again.
        copied = layer if recomputes else llm.layer_parameters
        weight_bytes += copied * BYTES[training.compute_dtype]
    num_tokens = seconds / training.mean_s * count_tokens(training.networks, training.mean_s)
    num_layers = llm.num_layers + training.networks.bridge.num_blocks
    num_values = num_tokens * llm.width * _stored_values(num_layers, recomputes)
    logit_bytes = seconds * TEXT_TOKENS * llm.vocabulary_size * LOGIT_BYTES
    return weight_bytes + num_values * BYTES[training.compute_dtype] + logit_bytes


def _state_bytes(networks: Networks, num_sharing: int) -> float:
    """Bytes of the fp32 weights besides those of encoder and LLM, and of the states of the stage
    that trains most; the LLM's own states are shared with its layers.
    """
    weights = sum(
        sum(counts) for name, counts in networks.modules.items() if name not in ("encoder", "LLM")
    )
    llm = networks.llm
    own_share = 1 - llm.layer_parameters / llm.num_parameters * (1 - 1 / num_sharing)
    states = max(
        (
            sum(counts.values()) - counts.get("llm", 0) * (1 - own_share)
            for counts in networks.stages
        ),
        default=0.0,
    )
    return weights * BYTES["float32"] + states * STATE_BYTES


def _encoder_bytes(training: _Training) -> float:
    """Bytes of an encoder that computes live, and of what its layers store where it is tuned."""
    encoder, dtype = training.networks.encoder, training.encoder_dtype
    seconds = _micro_batch_seconds(training) * training.fill
    num_bytes = encoder_bytes(encoder, seconds, dtype)
    if any(map(_tunes_encoder, training.networks.stages)):
        recomputes = training.settings.gradient_checkpointing
        num_values = seconds * encoder.token_rate * encoder.width
        num_values *= _stored_values(encoder.num_layers, recomputes)
        num_bytes += num_values * BYTES[training.encoder_compute_dtype]
        if training.encoder_compute_dtype != dtype:  # autocast's copies, as of the LLM's weights
            num_bytes += encoder.num_parameters * BYTES[training.encoder_compute_dtype]
    return num_bytes
