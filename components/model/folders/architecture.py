"""Networks without weights: a configuration → the architecture on torch's meta device, where every
tensor has a shape alone.

A plan counts them, and catalogue entries are checked against them, without a download. Cost: half a
second for the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM

from components.config.errors import InputError, nearest

NOT_CONFIG = ("model_type", "architectures", "dtype", "torch_dtype")  # read here, or not at all
MAX_REASON = 300  # characters of a library's error


def build_network(shape: dict[str, Any], causal: bool = False) -> Any:
    """The network that the keys of a ``config.json`` describe: of the class that ``architectures``
    names, else the one that its ``model_type`` has for text (``causal``) or as a bare model.

    Raises InputError for an architecture that transformers does not have, and for keys that do not
    fit it.
    """
    try:
        return _build(shape, causal)
    except Exception as error:  # transformers raises errors of any type for a wrong configuration
        raise InputError(
            f"No network can be made of {shape}: {summarize_error(error)}.",
            subject="shape",
            hint="Give what its config.json says.",
        ) from None


def _build(shape: dict[str, Any], causal: bool) -> Any:
    values = {key: value for key, value in shape.items() if key not in NOT_CONFIG}
    names = shape.get("architectures") or []
    config = AutoConfig.for_model(shape.get("model_type", ""), **values)
    with torch.device("meta"):
        if names:
            return getattr(transformers, names[0])(config)
        return (AutoModelForCausalLM if causal else AutoModel).from_config(config)


def try_architecture(
    where: str,
    model_type: str,
    config: dict[str, Any],
    inputs: Callable[[Any], dict[str, torch.Tensor]],
    causal: bool = False,
) -> Any:
    """The output, as shapes alone, of the network that is to be trained with ``config``, for
    ``inputs(its full configuration)``.

    Raises InputError, which names the catalogue entry ``where``, for a key that the architecture
    does not have (transformers would ignore it and use its own default in its place), and for
    values that give no network or one that fails.
    """
    hint = "Correct source.config of the entry."
    _check_values(where, model_type, config, hint)
    try:
        full_config = CONFIG_MAPPING[model_type](**config)
        width, heads = full_config.hidden_size, full_config.num_attention_heads
        if "head_dim" not in config and width % heads:
            raise ValueError(f"a width of {width} can't be divided among {heads} attention heads")
        with torch.device("meta"):
            network = _build({"model_type": model_type, **config}, causal)
            return network.eval()(**inputs(full_config))
    except Exception as error:  # of any type, as in build_network
        reason = summarize_error(error)
        raise InputError(
            f"{where}: source.config gives no network that works: {reason}.",
            subject="source.config",
            hint=hint,
        ) from None


def _check_values(where: str, model_type: str, config: dict[str, Any], hint: str) -> None:
    """Raises InputError for an architecture or a key that is not known, and for a value out of
    range.
    """
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"{where}: transformers has no architecture '{model_type}'.",
            subject="model_type",
            hint=nearest(model_type, CONFIG_MAPPING.keys()),
        )
    default_config = CONFIG_MAPPING[model_type]()
    keys = {*default_config.to_dict(), *type(default_config).attribute_map}
    for key, value in config.items():
        if key not in keys:
            raise InputError(
                f"{where}: source.config: {model_type} has no '{key}'.",
                subject=key,
                hint=f"{nearest(key, keys)} {hint}",
            )
        is_rate = "drop" in key
        if is_rate and not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise InputError(
                f"{where}: source.config: '{key}' is {value}, and must be at least 0 and below 1.",
                subject=key,
                hint=hint,
            )
        if not is_rate and type(value) is int and value < 1:
            raise InputError(
                f"{where}: source.config: '{key}' is {value}, and must be at least 1.",
                subject=key,
                hint=hint,
            )


def summarize_error(error: Exception) -> str:
    """The type and the text of a library's error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_REASON].rstrip('.')}"


def count_parameters(network: nn.Module) -> int:
    """Its parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())
