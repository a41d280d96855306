"""Checkpoints of a training in progress: tensors as safetensors, counters as JSON, never a pickle.

Randomness needs no state here: every draw is seeded by what it is for (seed, epoch, step, utterance), so the step number
restores it. A checkpoint is written beside its place and renamed, so a kill leaves the one before it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_ADAM = ("exp_avg", "exp_avg_sq", "step")


def named_trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save(folder: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None, state: dict[str, Any]) -> None:
    """Writes trained parameters, buffers, the optimiser's moments and ``state`` (plain data) to ``folder``."""
    trainable = named_trainable(module)
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in trainable.items()}
    tensors |= {f"buffer.{name}": buffer for name, buffer in module.named_buffers() if buffer.numel()}
    if optimiser is not None:
        for name, parameter in trainable.items():
            held = optimiser.state.get(parameter, {})
            tensors |= {f"{kind}.{name}": torch.as_tensor(held[kind]) for kind in _ADAM if kind in held}
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, fresh / "tensors.safetensors")
    (fresh / "state.json").write_text(json.dumps(state))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a run killed before it was gone
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def there(folder: Path) -> bool:
    """Whether a whole checkpoint lies at ``folder`` (one that a kill left half renamed is put back)."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder.exists()


def load(folder: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Restores what ``save`` wrote and returns its ``state``; raises ValueError where the parameters are others."""
    tensors = load_file(folder / "tensors.safetensors")
    trainable = named_trainable(module)
    saved = {name.removeprefix("parameter.") for name in tensors if name.startswith("parameter.")}
    if saved != set(trainable):
        raise ValueError(f"{folder} holds other parameters: {sorted(saved ^ set(trainable))[:3]} …")
    buffers = dict(module.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "parameter":
                trainable[rest].copy_(tensor)
            elif kind == "buffer":
                buffers[rest].copy_(tensor)
            elif optimiser is not None:
                parameter = trainable[rest]
                optimiser.state[parameter][kind] = tensor if kind == "step" else tensor.to(parameter)
    return json.loads((folder / "state.json").read_text())
