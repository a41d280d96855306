"""Parameters, widths and rates of one network, counted on torch's meta device, where a tensor has a
shape and no values.

In: what a ``config.json`` or a catalogue entry says of the network. Out: plain figures. Cost: up to
half a second a network, besides the import of torch and transformers (4 s), so
``components.plan.size_reader`` keeps the figures and imports this module only for those it lacks.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from components.config.projector import Projector
from components.model.bridges.registry import build_projector
from components.model.encoders.registry import FAMILIES, family_of
from components.model.folders.architecture import build_network, count_parameters
from components.model.folders.qwen_audio import whisper_shape
from components.model.matching import MatchingHead
from components.optim.sharding import decoder_layers
from components.plan.sizes import (
    BridgeSize,
    EncoderCounts,
    EncoderSize,
    LayerSizes,
    LlmCounts,
    LlmSize,
)

MOST_FRAMES = 1_500  # of an utterance whose tokens are listed: 30 s at 50 Hz


def count_encoder(where: str, shape: dict[str, Any], padding: str) -> EncoderCounts:
    """The encoder of the catalogue entry ``where``, which ``shape`` (the keys of a
    ``config.json``) and ``padding`` (``window``, ``full-window`` or ``none``) describe.

    Raises InputError for a family that is not known and for a shape that makes no network.
    """
    if shape.get("model_type") == "qwen" and "audio" in shape:
        shape = _whisper(shape)
    family = family_of(shape.get("model_type", ""), where)
    network = build_network(shape)
    layers = layer_sizes(family.loaded_part(network), family.encoder_of(network))
    return EncoderCounts(size_of(network, padding), layers, count_parameters(network))


def _whisper(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape of a Whisper for that of a Qwen-Audio; the decoder, which is not counted, has heads
    that fit its width.
    """
    audio = whisper_shape(shape["audio"])
    return {
        "model_type": "whisper",
        "decoder_attention_heads": audio["encoder_attention_heads"],
        **audio,
    }


def size_of(network: Any, padding: str) -> EncoderSize:
    """What a network on the meta device gives as an encoder, as its family describes it."""
    family = FAMILIES[network.config.model_type]
    traits = family.describe(network.config, padding=padding)
    decoder = family.decoder_of(network)
    return EncoderSize(
        num_parameters=count_parameters(family.encoder_of(network)),
        traits=traits,
        token_rate=traits.positions_per_frame * traits.frame_rate,
        has_ctc=type(network).__name__.endswith("ForCTC"),
        decoder_parameters=0 if decoder is None else count_parameters(decoder),
    )


def count_llm(shape: dict[str, Any]) -> LlmCounts:
    """The causal LLM of the keys of a ``config.json``; raises InputError for a shape that makes no
    network.
    """
    network = build_network(shape, causal=True)
    config = network.config
    heads = int(config.num_attention_heads)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    arguments = inspect.signature(network.base_model.forward).parameters
    size = LlmSize(
        num_parameters=count_parameters(network),
        width=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        vocabulary_size=int(config.vocab_size),
        kv_width=2 * int(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        layer_parameters=count_parameters(decoder_layers(network.base_model)),
        has_position_ids="position_ids" in arguments,
    )
    return LlmCounts(size, layer_sizes(network))


def count_bridge(entry: Projector, encoder_width: int, llm_width: int) -> BridgeSize:
    """The bridge of a catalogue entry between these widths, and the matching head of that LLM;
    tokens are listed of utterances of up to ``MOST_FRAMES`` frames, or of two periods if these are
    longer.
    """
    with torch.device("meta"):
        bridge = build_projector(entry, encoder_width, llm_width)
        matching = MatchingHead(llm_width)
    most_frames = max(MOST_FRAMES, 2 * bridge.period)
    return BridgeSize(
        float(bridge.stride),
        bridge.period,
        tuple(bridge.count_tokens(max(1, num_frames)) for num_frames in range(most_frames + 1)),
        layer_sizes(bridge).parameters,
        layer_sizes(matching).parameters,
        bridge.is_in_prompt,
        len(bridge.blocks_in_llm()),
        count_parameters(bridge.blocks_in_llm()),
    )


def layer_sizes(network: nn.Module, body: nn.Module | None = None) -> LayerSizes:
    """Parameters and linear layers by name; parameters of ``body`` alone where it is a part of the
    network. A tensor that two layers share counts once.
    """
    tunable = {id(parameter) for parameter in (body or network).parameters()}
    return LayerSizes(
        {
            name: parameter.numel()
            for name, parameter in network.named_parameters()
            if id(parameter) in tunable
        },
        {
            name: (module.in_features, module.out_features)
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear)
        },
    )
