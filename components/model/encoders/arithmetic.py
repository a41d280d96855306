"""The arithmetic of a frozen encoder with float32 weights: float32, TF32 or bfloat16.

TF32 rounds the inputs of matrix products and convolutions to 10 bits of mantissa and adds in
float32 (NVIDIA's Ampere and later); bfloat16 is autocast: matrix products and convolutions in
bfloat16, sums and norms in float32. Both multiply the speed on a GPU that has them. torch itself
has TF32 off for matrix products and on for convolutions, so both are set here, through its newer
interface (``fp32_precision``) alone: torch refuses to mix it with ``allow_tf32``. Cost in
accuracy: ``python -m bench.precision --encoder``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FP32_PRECISIONS = {"float32": "ieee", "tf32": "tf32"}  # as torch names them


@contextmanager
def use_arithmetic(name: str, device: torch.device) -> Iterator[None]:
    """Computes in ``float32``, ``tf32`` (float32 where the device is no GPU) or ``bfloat16``: all
    matrix products and convolutions. What torch was set to before is restored at the end.
    """
    if name == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    elif device.type == "cuda":
        # Recurrent layers too, which no encoder has: cuDNN's switch for both can't be read where
        # they differ.
        cudnn: Any = torch.backends.cudnn  # whose types lack the operations
        operations = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
        before = [operation.fp32_precision for operation in operations]
        for operation in operations:
            operation.fp32_precision = FP32_PRECISIONS[name]
        try:
            yield
        finally:
            for operation, precision in zip(operations, before, strict=True):
                operation.fp32_precision = precision
    else:
        yield
