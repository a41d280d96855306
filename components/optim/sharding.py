"""An LLM in parts on all ranks (FSDP2): what one device can't hold, several hold together.

In: the LLM, the same on every rank. Out: the LLM itself, of each decoder layer a rank's share; a
layer is put together when it runs and let go after. Embeddings, the final norm, the output matrix
and LoRA's matrices stay whole on every rank: they are small beside the layers, and are read outside
them. Cost: a layer's weights over the wire in the forward pass of every micro-batch, and again in
its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def shard(llm: Any, ranks: int) -> None:
    """Shards the decoder layers of ``llm`` over ``ranks`` processes, in place; its ``base_model``
    is what must be called.

    Gradients of sharded parameters come out of the backward pass summed over ranks (not averaged:
    losses are divided by the target tokens of the whole step already).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    base = llm.base_model
    layers = decoder_layers(base)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    whole = {
        parameter
        for name, parameter in base.named_parameters()
        if parameter not in inside or "lora_" in name
    }
    mesh = init_device_mesh(next(base.parameters()).device.type, (ranks,))
    for module in (*layers, base):
        fully_shard(module, mesh=mesh, ignored_params=whole)
    for module in base.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum that divides


def decoder_layers(base: nn.Module) -> nn.ModuleList:
    """The layers of an LLM: its longest list of modules (``layers``, ``h`` … by family)."""
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))


def local_device(name: str, rank: int) -> str:
    """The device of one rank of a machine: ``cuda`` becomes ``cuda:<rank>``; others stay."""
    if name != "cuda":
        return name
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"
