"""Weights that were trained elsewhere, opened before anything is built on them.

In: a safetensors file. Out: nothing, or InputError for a file that is none, that is cut short, or
that has values which are no numbers. Cost: one reading of the file, a piece of a tensor at a time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from components.config.errors import InputError

LFS_POINTER = b"version https://git-lfs"
PIECE = 2**24  # values that are looked at together: 64 MB in fp32


def check_weights(path: Path, where: str) -> None:
    """Raises InputError, which names ``where``, for weights that can't be used."""
    with path.open("rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    if is_pointer:
        raise InputError(
            f"{where} has no weights: it is a pointer of Git LFS, {path.stat().st_size} bytes of "
            "text.",
            subject=where,
            hint="Run 'git lfs pull' where it was cloned, and take the checkpoint again.",
        )
    try:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                _check_finite(weights.get_tensor(name), name, where)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{where} does not open as safetensors: {error}.",
            subject=where,
            hint="It is damaged or cut short: take another copy of the file.",
        ) from None


def _check_finite(tensor: torch.Tensor, name: str, where: str) -> None:
    """Raises InputError where a value of a tensor is NaN or infinite."""
    if not tensor.is_floating_point():
        return
    for piece in torch.split(tensor.flatten(), PIECE):
        if not torch.isfinite(piece.float()).all():
            raise InputError(
                f"{where}: the weights '{name}' have values that are no finite numbers.",
                subject=name,
                hint="The checkpoint is damaged, or its training had failed: take another one.",
            )
