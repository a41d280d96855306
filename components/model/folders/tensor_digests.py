"""Digests of the tensors of a checkpoint: equal weights have equal ones, however they were stored.

In: a folder with safetensors. Out: SHA-256 of each tensor's dtype, shape and bytes, by name, and
one for all of them. Cost: one reading of the weights, a tensor at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from components.runtime.hashing import data_digest


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a checkpoint, by its name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    return files


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """A tensor of a file."""
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    header = f"{tensor.dtype} {list(tensor.shape)}\n".encode()
    values = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(header + values.tobytes()).hexdigest()


def read_tensor_digests(folder: Path) -> dict[str, str]:
    """The digest of each tensor of a checkpoint by its name."""
    files = tensor_files(folder)
    return {name: tensor_digest(read_tensor(path, name)) for name, path in files.items()}


def combine_digests(digests: Mapping[str, str]) -> str:
    """One digest for all tensors by their names."""
    return data_digest(dict(digests))
