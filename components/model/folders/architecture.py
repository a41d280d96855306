"""Networks without weights: a configuration → the architecture on torch's meta device, where every
tensor has a shape alone.

What a plan counts and a catalogue entry is checked against, without a download. Cost: half a second
for the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM

from components.config.errors import InputError, nearest


def network_of(shape: dict[str, Any], causal: bool = False) -> Any:
    """The network that the keys of a ``config.json`` describe: of the class that ``architectures``
    names, else the one that its ``model_type`` has for text (``causal``) or as a bare model.

    Raises InputError for an architecture that transformers does not hold, and for keys that do not
    fit it.
    """
    try:
        return _built(shape, causal)
    except Exception as error:  # a configuration breaks in any way
        raise InputError(
            f"No network can be made of {shape}: {first_line(error)}.",
            subject="shape",
            hint="Give what its config.json says.",
        ) from None


def _built(shape: dict[str, Any], causal: bool) -> Any:
    settings = {
        key: value
        for key, value in shape.items()
        if key not in ("model_type", "architectures", "dtype", "torch_dtype")
    }
    names = shape.get("architectures") or []
    config = AutoConfig.for_model(shape.get("model_type", ""), **settings)
    with torch.device("meta"):
        if names:
            return getattr(transformers, names[0])(config)
        return (AutoModelForCausalLM if causal else AutoModel).from_config(config)


def check_trained(
    where: str,
    model_type: str,
    config: dict[str, Any],
    inputs: Callable[[Any], dict[str, torch.Tensor]],
    causal: bool = False,
) -> Any:
    """What the network that is to be trained with ``config`` gives for ``inputs(its
    configuration)``, as shapes alone.

    Raises InputError, which names the catalogue entry ``where``, for a key that the architecture
    does not have (transformers would keep it and take its own default for the one that was meant),
    and for values that give no network or one that fails.
    """
    hint = "Correct source.config of the entry."
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"{where}: transformers has no architecture '{model_type}'.",
            subject="model_type",
            hint=nearest(model_type, CONFIG_MAPPING.keys()),
        )
    plain = CONFIG_MAPPING[model_type]()
    field_names = {*plain.to_dict(), *type(plain).attribute_map}
    for key, value in config.items():
        if key not in field_names:
            raise InputError(
                f"{where}: source.config: {model_type} has no '{key}'.",
                subject=key,
                hint=f"{nearest(key, field_names)} {hint}",
            )
        if "drop" in key and not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise InputError(
                f"{where}: source.config: '{key}' is {value}, and must be at least 0 and below 1.",
                subject=key,
                hint=hint,
            )
        if "drop" not in key and type(value) is int and value < 1:
            raise InputError(
                f"{where}: source.config: '{key}' is {value}, and must be at least 1.",
                subject=key,
                hint=hint,
            )
    try:
        full = CONFIG_MAPPING[model_type](**config)
        if "head_dim" not in config and full.hidden_size % full.num_attention_heads:
            raise ValueError(
                f"a width of {full.hidden_size} can't be divided among "
                f"{full.num_attention_heads} attention heads"
            )
        with torch.device("meta"):
            return _built({"model_type": model_type, **config}, causal).eval()(**inputs(full))
    except Exception as error:
        message = f"{where}: source.config gives no network that works: {first_line(error)}."
        raise InputError(message, subject="source.config", hint=hint) from None


def first_line(error: Exception) -> str:
    """The reason that a library gives, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}"


def parameters(network: nn.Module) -> int:
    """Its parameters, those that are tied counted once."""
    return sum(parameter.numel() for parameter in network.parameters())
