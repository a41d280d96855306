"""The arithmetic of a frozen encoder with float32 weights: float32, TF32 or bfloat16.

TF32 rounds the inputs of matrix products to 10 bits of mantissa and adds in float32 (NVIDIA's
Ampere and later); bfloat16 is autocast: matrix products and convolutions in bfloat16, sums and
norms in float32. Both multiply the speed on a GPU that has them. Cost in accuracy:
``python -m bench.precision --encoder``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_arithmetic(name: str, device: torch.device) -> Iterator[None]:
    """Computes in ``float32``, ``tf32`` (float32 where the device is no GPU) or ``bfloat16``."""
    if name == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    elif name == "tf32" and device.type == "cuda":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        yield
