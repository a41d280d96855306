"""Weights in torch's own format → safetensors.

``pytorch_model.bin`` is a pickle, which could run commands. It is read with ``weights_only=True``,
which builds tensors and plain containers and refuses all else, here and nowhere else. Cost: the
weights are mapped, not read into memory, where the file is a zip archive (torch 1.6 and later), and
written once; an older file is read into memory completely.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from components.config.errors import InputError


def convert_weights(source: Path, target: Path, where: str) -> None:
    """Writes the tensors of ``source`` to ``target`` under their names; ``where`` names them in
    errors.

    Tensors that share memory are written separately. Raises InputError where the file has more than
    tensors by name.
    """
    try:
        tensors = torch.load(
            source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source)
        )
    except Exception as error:  # of any type for a broken file; UnpicklingError for code
        raise InputError(
            f"{where} does not load as plain tensors ({type(error).__name__}): it is broken, "
            "or a pickle that would run code.",
            subject=where,
            hint="Take another revision, or weights as safetensors.",
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise InputError(
            f"{where} has more than tensors by name.",
            subject=where,
            hint="Take weights as safetensors.",
        )
    save_file(_separate_tensors(tensors), target, metadata={"format": "pt"})


def _separate_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, contiguous, without two in one piece of memory (tied weights), which
    safetensors does not accept.
    """
    separate: dict[str, torch.Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        is_shared = address in addresses
        separate[name] = (
            tensor.clone(memory_format=torch.contiguous_format)
            if is_shared
            else tensor.contiguous()
        )
        addresses.add(address)
    return separate
