"""Checkpoints of a training in progress: tensors as safetensors, counters as JSON, never a pickle.

Randomness needs no state here: every draw is seeded by what it is for (seed, epoch, step,
utterance), so the step number restores it. A checkpoint is written beside the old one and renamed,
so that a killed process leaves the old one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components.config.errors import InputError
from components.optim.ranks import gather_tensors, is_sharded

TENSORS, STATE = "tensors.safetensors", "state.json"
_ADAM = ("exp_avg", "exp_avg_sq", "step")


def trainable_parameters(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }


def save(
    folder: Path,
    network: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None,
    state: dict[str, Any],
    *,
    write: bool = True,
) -> None:
    """Writes trainable parameters, buffers, the moments of ``optimiser`` and ``state`` (plain data)
    to ``folder``.

    All ranks call it where the LLM is sharded, since each holds a part of it; one of them writes.
    """
    gathered = gather_tensors(_tensors(network, optimiser).items(), is_writer=write)
    if not write:
        return
    new, old = _sibling(folder, "new"), _sibling(folder, "old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(gathered, new / TENSORS)
    (new / STATE).write_text(json.dumps(state))
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a run that was killed before it was removed
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _tensors(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer | None
) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint; a name is ``<kind>.<name in the network>``."""
    parameters = trainable_parameters(network)
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in parameters.items()}
    tensors |= {
        f"buffer.{name}": buffer for name, buffer in network.named_buffers() if buffer.numel()
    }
    if optimiser is not None:
        for name, parameter in parameters.items():
            moments = optimiser.state.get(parameter, {})
            tensors |= {
                f"{kind}.{name}": torch.as_tensor(moments[kind])
                for kind in _ADAM
                if kind in moments
            }
    return tensors


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def has_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` holds a complete checkpoint; one that a killed process left half renamed
    is put back. All ranks may call it at the same time.
    """
    if not folder.exists():
        # There is none, or another rank has just renamed it.
        with contextlib.suppress(FileNotFoundError):
            _sibling(folder, "old").rename(folder)
    return folder.exists()


def load(
    folder: Path, network: torch.nn.Module, optimiser: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restores what ``save`` wrote and returns its ``state``.

    Raises InputError, before anything is restored, where parameters or buffers of the network
    differ from the saved ones by name or by shape.
    """
    tensors = load_file(folder / TENSORS)
    parameters = trainable_parameters(network)
    buffers = {name: buffer for name, buffer in network.named_buffers() if buffer.numel()}
    _check(folder, tensors, {"parameter": parameters, "buffer": buffers})
    # AdamW counts the steps on the CPU unless it is fused or captured in a CUDA graph: its kernel
    # then reads the count on the device of the parameter (torch.optim.Optimizer.load_state_dict).
    has_step_on_device = {
        parameter: bool(group.get("fused") or group.get("capturable"))
        for group in (optimiser.param_groups if optimiser is not None else ())
        for parameter in group["params"]
    }
    with torch.no_grad():
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "parameter":
                parameters[name].copy_(_distributed_like(parameters[name], tensor))
            elif kind == "buffer":
                buffers[name].copy_(tensor)
            elif optimiser is not None:
                parameter = parameters[name]
                if kind != "step":
                    tensor = _distributed_like(parameter, tensor)
                elif has_step_on_device[parameter]:
                    tensor = tensor.to(parameter.device)
                optimiser.state[parameter][kind] = tensor
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def _check(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    expected: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Raises InputError where ``tensors`` are not the ``expected`` ones (by kind and name)."""
    for kind, expected_tensors in expected.items():
        saved = {
            key.removeprefix(f"{kind}."): tuple(tensor.shape)
            for key, tensor in tensors.items()
            if key.startswith(f"{kind}.")
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in expected_tensors.items()}
        for name in sorted(saved.keys() | shapes.keys()):
            if saved.get(name) != shapes.get(name):
                raise InputError(
                    f"{folder} is a checkpoint of another model: {kind} '{name}' has the shape "
                    f"{saved.get(name, '(missing)')} there and "
                    f"{shapes.get(name, '(missing)')} in the model.",
                    subject=name,
                    hint="Install the versions that it was written with, or delete that folder "
                    "to train from the start.",
                )


def _distributed_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` on the device and in the dtype of ``parameter``, sharded where that is sharded."""
    if not is_sharded(parameter):
        return tensor.to(parameter)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(mesh.device_type, parameter.dtype), mesh, placements)
