"""Checkpoints of a training in progress: tensors as safetensors, counters as JSON, never a pickle.

Randomness needs no state here: every draw is seeded by what it is for (seed, epoch, step,
utterance), so the step number restores it. A checkpoint is written beside its place and renamed, so
a kill leaves the one before it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components.config.errors import InputError
from components.optim.ranks import full_tensor, is_sharded

_ADAM = ("exp_avg", "exp_avg_sq", "step")


def named_trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }


def save(
    folder: Path,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None,
    state: dict[str, Any],
    *,
    write: bool = True,
) -> None:
    """Writes trained parameters, buffers, the optimiser's moments and ``state`` (plain data) to
    ``folder``.

    With a sharded LLM all ranks call it, since all hold a part of it, and one of them writes.
    """
    trainable = named_trainable(module)
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in trainable.items()}
    tensors |= {
        f"buffer.{name}": buffer for name, buffer in module.named_buffers() if buffer.numel()
    }
    if optimiser is not None:
        for name, parameter in trainable.items():
            held = optimiser.state.get(parameter, {})
            tensors |= {
                f"{kind}.{name}": torch.as_tensor(held[kind]) for kind in _ADAM if kind in held
            }
    gathered = {
        name: full_tensor(tensor.detach()).cpu()
        for name, tensor in tensors.items()
        if write or is_sharded(tensor)
    }
    if not write:
        return
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in gathered.items()},
        fresh / "tensors.safetensors",
    )
    (fresh / "state.json").write_text(json.dumps(state))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a run killed before it was gone
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a whole checkpoint lies at ``folder`` (one that a kill left half renamed is put
    back).
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder.exists()


def load(
    folder: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restores what ``save`` wrote and returns its ``state``.

    Raises InputError, before anything is restored, where parameters or buffers are others, by name
    or by shape.
    """
    tensors = load_file(folder / "tensors.safetensors")
    trainable, buffers = named_trainable(module), dict(module.named_buffers())
    _check(
        folder,
        tensors,
        {
            "parameter": trainable,
            "buffer": {name: each for name, each in buffers.items() if each.numel()},
        },
    )
    with torch.no_grad():
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "parameter":
                trainable[rest].copy_(_laid_out_as(trainable[rest], tensor))
            elif kind == "buffer":
                buffers[rest].copy_(tensor)
            elif optimiser is not None:
                parameter = trainable[rest]
                optimiser.state[parameter][kind] = (
                    tensor if kind == "step" else _laid_out_as(parameter, tensor)
                )
    return json.loads((folder / "state.json").read_text())


def _check(
    folder: Path, tensors: dict[str, torch.Tensor], wanted: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Raises InputError where ``tensors`` are not those that the module has."""
    for kind, those in wanted.items():
        saved = {
            name.removeprefix(f"{kind}."): tuple(each.shape)
            for name, each in tensors.items()
            if name.startswith(f"{kind}.")
        }
        shapes = {name: tuple(each.shape) for name, each in those.items()}
        for name in sorted(saved.keys() | shapes.keys()):
            if saved.get(name) != shapes.get(name):
                raise InputError(
                    f"{folder} is a checkpoint of another model: its {kind} '{name}' is {saved.get(name, 'not there')}, "
                    f"the model's is {shapes.get(name, 'not there')}.",
                    subject=name,
                    hint=(
                        "Give back the versions that it was made with, or delete that "
                        "folder to train anew."
                    ),
                )


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the device and in the dtype of ``parameter``; in parts where that
    is sharded.
    """
    if not is_sharded(parameter):
        return tensor.to(parameter)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(mesh.device_type, parameter.dtype), mesh, placements)
