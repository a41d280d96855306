"""Gradient checkpointing: activations inside a layer are computed again for the backward pass
instead of being stored (Chen et al. 2016, arXiv 1604.06174). It costs about one more forward pass
and stores one vector for each token and layer.

transformers recomputes in layers that are in training mode, but a frozen LLM is in evaluation mode
because of its dropout. So only the flag of the layer itself is set, not those of its children,
which contain the dropout; what a layer drops by its own flag (Whisper) is set to 0.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from components.config.errors import InputError


def checkpointed_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that can recompute their activations."""
    return [
        module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)
    ]


def enable(network: Any) -> None:
    """Prepares a network for ``activate``; raises InputError for one without such layers."""
    if not checkpointed_layers(network):
        raise InputError(
            f"{type(network).__name__} has no layers that can recompute their activations.",
            subject="train.gradient_checkpointing",
            hint="Set train.gradient_checkpointing to false.",
        )
    network.activation_checkpointing_enable({"use_reentrant": False})
    for layer in checkpointed_layers(network):
        for name, value in list(vars(layer).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)


def activate(network: nn.Module) -> None:
    """Makes the layers recompute until the mode of the network is set again; without ``enable``
    nothing changes.
    """
    for layer in checkpointed_layers(network):
        layer.training = bool(layer.gradient_checkpointing)
