"""What a card does at best, measured in the same run: the rate of a matrix product and the
bandwidth of a copy.

In: a torch device. Out: operations and bytes a second, and the clock that all measures share. Cost:
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

MATRIX = {"cuda": 8192, "cpu": 384}  # rows and columns of the square matrices
COPIED = {"cuda": 2**30, "cpu": 2**24}  # bytes


def measure_seconds(run: Callable[[], Any], device: str, runs: int) -> float:
    """The median of ``runs`` runs after one that warms up; a GPU is waited for, since its work is
    queued.
    """
    taken = []
    for _ in range(runs + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def synchronize(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> None:
    """Frees what is held for nothing and starts the count of the peak anew."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    """Most bytes of the GPU that tensors took since ``forget_peak``; None on a processor, where
    nobody counts them.
    """
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


def measure_matrix_rate(device: str, dtype: torch.dtype, runs: int) -> float:
    """Operations a second of a product of two large square matrices: 2 n³ of them."""
    size = MATRIX[device.split(":")[0]]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / measure_seconds(lambda: left @ right, device, runs)


def measure_bandwidth(device: str, runs: int) -> float:
    """Bytes a second of a copy within the device's memory, read and written ones together."""
    count = COPIED[device.split(":")[0]]
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / measure_seconds(lambda: target.copy_(source), device, runs)


def card_name(device: str) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
