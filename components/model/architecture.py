"""Networks without weights: a configuration → the architecture on torch's meta device, where every tensor has a shape alone.

What a plan counts and a catalogue entry is checked against, without a download. Cost: half a second for the largest.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from components.config.errors import InputError


def network_of(shape: dict[str, Any], causal: bool = False) -> Any:
    """The network that the keys of a ``config.json`` describe: of the class that ``architectures`` names, else the one that
    its ``model_type`` has for text (``causal``) or as a bare model.

    Raises InputError for an architecture that transformers does not hold, and for keys that do not fit it.
    """
    rest = {key: value for key, value in shape.items() if key not in ("model_type", "architectures", "dtype", "torch_dtype")}
    names = shape.get("architectures") or []
    try:
        config = AutoConfig.for_model(shape.get("model_type", ""), **rest)
        with torch.device("meta"):
            if names:
                return getattr(transformers, names[0])(config)
            return (AutoModelForCausalLM if causal else AutoModel).from_config(config)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"No network can be made of {shape}: {reason}", unit="shape", way_out="Give what its config.json says.") from None


def parameters(network: nn.Module) -> int:
    """Its parameters, those that are tied counted once."""
    return sum(each.numel() for each in network.parameters())
