"""An LLM sharded over all ranks (FSDP2), for one that is too large for a device.

In: the LLM, the same on every rank. Out: the same object, with a share of each decoder layer on
each rank; a layer is gathered when it runs and freed afterwards. Embeddings, the final norm, the
output matrix and the matrices of LoRA are complete on every rank: they are small beside the layers,
and are read outside them. Cost: the weights of a layer are sent in the forward pass of every
micro-batch, and again in its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def shard(llm: Any, world_size: int) -> None:
    """Shards the decoder layers of ``llm`` over ``world_size`` processes, in place; callers must
    call its ``base_model``.

    The backward pass sums gradients of sharded parameters over ranks. It does not average them,
    since losses are divided by the target tokens of the whole step.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    base = llm.base_model
    layers = decoder_layers(base)
    in_layers = {parameter for layer in layers for parameter in layer.parameters()}
    replicated = {
        parameter
        for name, parameter in base.named_parameters()
        if parameter not in in_layers or "lora_" in name
    }
    mesh = init_device_mesh(next(base.parameters()).device.type, (world_size,))
    for module in (*layers, base):
        fully_shard(module, mesh=mesh, ignored_params=replicated)
    for module in base.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum that divides


def decoder_layers(base: nn.Module) -> nn.ModuleList:
    """The layers of an LLM: its largest list of modules (``layers`` or ``h``, by family)."""
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return max(
        lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters())
    )


def local_device(name: str, local_rank: int) -> str:
    """The device of a rank of this machine: ``cuda:<local_rank>`` for ``cuda``, else ``name``."""
    if name != "cuda":
        return name
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"
