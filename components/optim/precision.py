"""In which precision a training computes: fp32, bf16, or fp16 with its loss scaled.

Losses are computed under autocast: matrix products in half precision, sums and norms in fp32; the
weights that are trained, their gradients and AdamW's moments stay fp32. fp16 has too short a range
for gradients (Micikevicius et al. 2018, arXiv 1710.03740), so the loss is scaled up, and a step
whose gradients overflow by it is left out and the scale lowered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """One optimiser's arithmetic in ``name``: ``fp32``, ``bf16`` or ``fp16``."""

    def __init__(self, name: str, device: str) -> None:
        self._kind, self._half = torch.device(device).type, HALVES.get(name)
        self._scaler = torch.amp.GradScaler(self._kind) if name == "fp16" else None

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Around the computation of a loss."""
        return torch.autocast(self._kind, self._half) if self._half else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the loss's gradients, scaled where fp16 wants it."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def step(self, optimiser: torch.optim.Optimizer, clip: Callable[[], object]) -> bool:
        """Has ``clip`` clip the gradients' norm and makes the optimiser's step; False where scaled
        gradients overflowed and none was made.
        """
        if self._scaler is None:
            clip()
            optimiser.step()
            return True
        self._scaler.unscale_(optimiser)
        clip()
        before = self._scaler.get_scale()
        self._scaler.step(optimiser)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state(self) -> dict[str, Any] | None:
        """The scaler's counters, for a checkpoint; None where there is none."""
        return self._scaler.state_dict() if self._scaler else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Takes up what ``state`` gave."""
        if self._scaler and state:
            self._scaler.load_state_dict(state)
