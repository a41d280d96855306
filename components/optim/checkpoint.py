"""Checkpoints of a training in progress: tensors as safetensors, counters as JSON, never a pickle.

Randomness needs no state here: every draw is seeded by what it is for (seed, epoch, step,
utterance), so the step number restores it. A checkpoint is written beside the old ones, read back
from the disk and renamed, so that neither a kill nor a loss of power leaves half of one. The one
before it stays in ``<folder>.old``, for the case that the newest is damaged later. Cost: the disk
space of two, one digest of the tensors and one reading.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components.config.errors import InputError
from components.optim.ranks import gather_tensors, is_sharded
from components.runtime.durability import (
    drop_from_memory,
    find_fault,
    sync_folder,
    sync_tree,
    write_digests,
)

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
    to ``folder``; what was there becomes the checkpoint before it.

    All ranks call it where the LLM is sharded, since each holds a part of it; one of them writes.
    Raises InputError where the disk gives back other bytes than were written.
    """
    gathered = gather_tensors(_tensors(network, optimiser).items(), is_writer=write)
    if not write:
        return
    new, old = _sibling(folder, "new"), _sibling(folder, "old")
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    # ``folder`` was read back when it was written, so the one before it is no longer needed.
    shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(gathered, new / TENSORS)
    (new / STATE).write_text(json.dumps(state))
    write_digests(new, (TENSORS, STATE))
    _check_written(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync_folder(folder.parent)


def _check_written(folder: Path) -> None:
    """Raises InputError where the files of a new checkpoint are not on the disk as written."""
    sync_tree(folder)
    for name in (TENSORS, STATE):
        drop_from_memory(folder / name)
    if fault := find_fault(folder):
        raise InputError(
            f"{folder}: the checkpoint is damaged as soon as it is written: {fault}.",
            subject=str(folder),
            hint="Check the disk, or set LIBRETTO_WORK to a folder on another one; the checkpoint "
            "before it stays.",
        )


def recover(folder: Path, fault_of_state: Callable[[dict[str, Any]], str]) -> tuple[bool, str]:
    """Puts the newest intact checkpoint whose state has no fault to ``folder``, where there is one;
    returns whether there is, and what was wrong with newer ones. One rank calls it.
    """
    faults = []
    for candidate in (folder, _sibling(folder, "old")):
        if not candidate.exists():
            continue
        fault = find_fault(candidate) or fault_of_state(_read_state(candidate))
        if fault:
            faults.append(f"{candidate} ({fault})")
            continue
        if candidate != folder:
            shutil.rmtree(folder, ignore_errors=True)
            candidate.rename(folder)
        return True, " and ".join(faults)
    return False, " and ".join(faults)


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


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


def load(
    folder: Path, network: torch.nn.Module, optimiser: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restores what ``save`` wrote and returns its ``state``; ``recover`` has checked the files.

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
    return _read_state(folder)


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
