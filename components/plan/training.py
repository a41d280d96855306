"""Memory and hours of the training on one accelerator: estimates, stage by stage of the curriculum.

In: networks, audio by source, the train section, how many ranks share the LLM. Out: one load: all
operations, the peak of one process. Operations a parameter and token (Kaplan et al. 2020, arXiv
2001.08361, section 2.1): 2 forward, 2 for the gradient that passes through, 2 more for that of a
weight which is tuned, 2 more where activations are computed again. Cost: microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from components.config.params import Params
from components.config.training import Train
from components.plan.load import (
    CONTEXT,
    LOGITS,
    TEXT_TOKENS,
    Load,
    computed,
    encoder_memory,
    encoding,
    generated,
    mean_of,
    together,
    tokens_of,
)
from components.plan.networks import BYTES, Networks
from components.plan.speech import Audio

HALVES = {"bf16": "bfloat16", "fp16": "float16"}  # of train.precision
# Values that a layer keeps for the backward pass, a token and unit of width: 34 bytes in half
# precision (Korthikanti et al. 2022, arXiv 2205.05198, section 4, without what the attention matrix
# takes: fused kernels never store it). Frozen layers keep less.
KEPT = 17
# of them, the layer's input: all that gradient checkpointing keeps (Chen et al. 2016, arXiv
# 1604.06174)
INPUT = 1
# bytes of a parameter being trained beside its fp32 weight: gradient and AdamW's two moments
MOVING = 12
# layers of a shared LLM that lie whole on a rank: the one that runs, and the next on its way
# (FSDP2)
GATHERED = 2


def train_load(
    params: Params,
    nets: Networks,
    audio: Sequence[Audio],
    dtype: str,
    encoder_dtype: str,
    shared: int = 1,
) -> Load:
    """The stage train; ``dtype`` and ``encoder_dtype`` are those of the weights, ``shared`` the
    ranks that share the LLM's layers.
    """
    settings, live, again = (
        params.train,
        params.features.mode == "live",
        params.train.gradient_checkpointing,
    )
    mean = mean_of(audio, ("train",))
    arithmetic, encoder_arithmetic = (
        HALVES.get(settings.precision, dtype),
        HALVES.get(settings.precision, encoder_dtype),
    )
    speech = [each for each in audio if each.role == "train"]
    filled = sum(computed(nets, each) for each in speech) / (
        sum(each.seconds for each in speech) or 1.0
    )  # windows that are filled up
    read, frozen, heard = (
        0.0,
        0.0,
        0.0,
    )  # the LLM's operations, those of a frozen encoder and of a tuned one
    for stage, tuned in zip(settings.curriculum, nets.stages, strict=True):
        utterances = stage.steps * step_seconds(settings, nets, mean) / mean
        tokens = utterances * tokens_of(nets, mean)
        read += tokens * ((4 + 2 * again) * nets.llm.parameters + 2 * tuned.get("llm", 0))
        read += 6 * utterances * nets.speech_tokens(mean) * tuned.get("projector", 0)
        if live:
            once = encoding(nets, utterances * mean * filled)
            if tuned.get("encoder", 0) + tuned.get("encoder-lora", 0):
                heard += (
                    2 + again + tuned.get("encoder", 0) / max(1, nets.encoder.parameters)
                ) * once
            else:
                frozen += once
    # Greedy search on dev at each checkpoint: every token reads the weights once for a batch of
    # utterances.
    checkpoints = sum(
        math.ceil(stage.steps / settings.selection.every) for stage in settings.curriculum
    )
    dev = [each for each in audio if each.role == "dev"]
    most = settings.selection.utterances
    steps = checkpoints * sum(
        generated(each, min(most, each.utterances), 2 * settings.batch_seconds) for each in dev
    )
    memory = (
        _llm_memory(nets, settings, mean, dtype, arithmetic, shared)
        + _states(nets, shared)
        + CONTEXT
    )
    if live:
        memory += _encoder_memory(nets, settings, mean, filled, encoder_dtype, encoder_arithmetic)
    operations = together((arithmetic, read), (encoder_dtype, frozen), (encoder_arithmetic, heard))
    return Load("train", arithmetic, operations, steps * nets.llm.parameters * BYTES[dtype], memory)


def step_seconds(settings: Train, nets: Networks, mean: float) -> float:
    """Seconds of audio in a step, full under the budgets of seconds and of tokens. Padding counts
    in the first, packed or not.
    """
    utterances = settings.batch_seconds / mean
    if settings.batch_tokens:
        utterances = min(utterances, settings.batch_tokens / tokens_of(nets, mean))
    return max(1.0, utterances) * mean


def _part(settings: Train, nets: Networks, mean: float) -> float:
    """Seconds of audio in a micro-batch: at least those of an utterance, a joined one where
    utterances are joined.
    """
    longest = max(mean, settings.concatenate.seconds * bool(settings.concatenate.share))
    return max(longest, step_seconds(settings, nets, mean) / settings.micro_batches)


def _kept(layers: int, again: bool) -> int:
    """Values that all layers keep, a token and unit of width: with gradient checkpointing their
    inputs, and all of the one in work.
    """
    return layers * INPUT + KEPT if again else layers * KEPT


def _llm_memory(
    nets: Networks, settings: Train, mean: float, dtype: str, arithmetic: str, shared: int
) -> float:
    """Bytes of the LLM's weights on a rank, and of what it keeps of a micro-batch."""
    llm, part, again = nets.llm, _part(settings, nets, mean), settings.gradient_checkpointing
    layer = llm.layered / llm.layers
    whole = llm.parameters - llm.layered
    weights = (whole + llm.layered / shared + (GATHERED * layer if shared > 1 else 0)) * BYTES[
        dtype
    ]
    if (
        arithmetic != dtype
    ):  # autocast's copy of each weight is kept for the backward pass, but where a layer is computed again
        weights += (layer if again else llm.layered) * BYTES[arithmetic]
    kept = (
        part
        / mean
        * tokens_of(nets, mean)
        * llm.width
        * _kept(llm.layers, again)
        * BYTES[arithmetic]
    )
    return weights + kept + part * TEXT_TOKENS * llm.vocabulary * LOGITS


def _states(nets: Networks, shared: int) -> float:
    """Bytes of the fp32 weights beside the two bases, and of the states of the stage that trains
    most; the LLM's own lie where its layers do.
    """
    beside = sum(
        sum(counts) for name, counts in nets.modules.items() if name not in ("encoder", "LLM")
    )
    alone = 1 - nets.llm.layered / nets.llm.parameters * (1 - 1 / shared)
    moving = max(
        (sum(tuned.values()) - tuned.get("llm", 0) * (1 - alone) for tuned in nets.stages),
        default=0.0,
    )
    return beside * BYTES["float32"] + moving * MOVING


def _encoder_memory(
    nets: Networks, settings: Train, mean: float, filled: float, dtype: str, arithmetic: str
) -> float:
    """Bytes of an encoder that hears live, and of what its layers keep where it is tuned."""
    seconds = _part(settings, nets, mean) * filled
    memory = encoder_memory(nets, seconds, dtype)
    if any(tuned.get("encoder", 0) + tuned.get("encoder-lora", 0) for tuned in nets.stages):
        kept = _kept(nets.encoder.layers, settings.gradient_checkpointing)
        memory += seconds * nets.encoder.tokens * nets.encoder.width * kept * BYTES[arithmetic]
        if arithmetic != dtype:  # autocast's copies, as of the LLM's weights
            memory += nets.encoder.parameters * BYTES[arithmetic]
    return memory
