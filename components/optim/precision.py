"""The precision of a training: fp32, bf16, or fp16 with a scaled loss.

Losses are computed under autocast: matrix products in half precision, sums and norms in fp32;
trained weights, their gradients and AdamW's moments are fp32. The range of fp16 is too small for
gradients (Micikevicius et al. 2018, arXiv 1710.03740), so the loss is multiplied by a scale; a step
whose gradients overflow is skipped, and the scale is lowered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The arithmetic of one optimiser; ``name`` is ``fp32``, ``bf16`` or ``fp16``."""

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self._kind, self._half = torch.device(device).type, HALVES.get(name)
        self._scaler = torch.amp.GradScaler(self._kind) if name == "fp16" else None

    @property
    def has_scaler(self) -> bool:
        """Whether a step that is not finite is skipped, since the loss is scaled."""
        return self._scaler is not None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which a loss is computed."""
        return torch.autocast(self._kind, self._half) if self._half else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of ``loss``, scaled in fp16."""
        scaled_loss = self._scaler.scale(loss) if self._scaler else loss
        torch.autograd.backward(scaled_loss)

    def step(self, optimiser: torch.optim.Optimizer, clip: Callable[[], object]) -> bool:
        """Calls ``clip`` on unscaled gradients and makes the step of the optimiser; returns False
        where scaled gradients overflowed and the step was skipped.
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
        """Counters of the loss scaler for a checkpoint; None without one."""
        return self._scaler.state_dict() if self._scaler else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Restores what ``state`` returned."""
        if self._scaler and state:
            self._scaler.load_state_dict(state)
