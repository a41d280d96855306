"""The limits of a card, measured in the same run: the rate of a matrix product and the bandwidth of
a copy.

In: a torch device. Out: operations and bytes a second, and the clock that all measures share. Cost:
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from components.model.encoders.arithmetic import use_arithmetic

MATRIX = {"cuda": 8192, "cpu": 384}  # rows and columns of the square matrices
COPY_BYTES = {"cuda": 2**30, "cpu": 2**24}


def measure_seconds(run: Callable[[], Any], device: str, num_runs: int) -> float:
    """The median of ``num_runs`` runs after one that warms up; it includes the work that a GPU has
    queued.
    """
    seconds = []
    for _ in range(num_runs + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def synchronize(device: str) -> None:
    """Waits until the device has done all its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> None:
    """Frees unused memory and resets the peak."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    """Peak bytes of tensors on the GPU since ``reset_peak``; None on a processor, which does not
    count them.
    """
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


def measure_matrix_rate(device: str, arithmetic: str, num_runs: int) -> float:
    """Operations a second of a product of two large square matrices: 2 n³ of them."""
    size = MATRIX[device.split(":")[0]]
    dtype = torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with use_arithmetic(arithmetic, torch.device(device)):
        return 2 * size**3 / measure_seconds(lambda: left @ right, device, num_runs)


def measure_bandwidth(device: str, num_runs: int) -> float:
    """Bytes a second of a copy within the device's memory, reads and writes together."""
    num_bytes = COPY_BYTES[device.split(":")[0]]
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / measure_seconds(lambda: target.copy_(source), device, num_runs)


def card_name(device: str) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
