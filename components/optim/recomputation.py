"""Gradient checkpointing: activations inside a layer are computed again for the backward pass
instead of being kept (Chen et al. 2016, arXiv 1604.06174). Costs about one more forward pass; keeps
one vector a token and layer.

transformers does it in layers that are in training mode, but a frozen LLM stays in evaluation mode
for the sake of its dropout. So only the layers' own flag is set, and not their children's, where
the dropout is; what a layer itself drops by its flag (Whisper's) is set to 0.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from components.config.errors import InputError


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that can compute their activations again."""
    return [
        module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)
    ]


def enable(network: Any) -> None:
    """Switches it on, for when ``recomputing`` is called; raises InputError for a network that has
    no such layers.
    """
    if not layers_of(network):
        raise InputError(
            f"{type(network).__name__} has no layers that can compute their activations again.",
            subject="train.gradient_checkpointing",
            hint="Set train.gradient_checkpointing to false.",
        )
    network.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers_of(network):
        for name in [
            name
            for name, value in vars(layer).items()
            if "dropout" in name and isinstance(value, float)
        ]:
            setattr(layer, name, 0.0)


def recomputing(network: nn.Module) -> None:
    """Has the layers do it until the network's mode is set again; where it was not enabled nothing
    changes.
    """
    for layer in layers_of(network):
        layer.training = bool(layer.gradient_checkpointing)
