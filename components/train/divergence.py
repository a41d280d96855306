"""Stops a training that diverges: a loss that is not a finite number, one that jumps, steps that
overflow one after the other.

The step, its loss and all of its utterances are written to ``stopped.json`` in the folder of the
training, which the message names. The last checkpoint stays: a training that is started again
resumes from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from components.config.errors import InputError
from components.optim.loop import MAX_SKIPPED_STEPS

STOPPED = "stopped.json"
WINDOW = 100  # steps; a spike is measured against their median loss
MIN_STEPS = 10  # before a spike can be detected
MAX_NAMED_UTTERANCES = 5  # in a message; all are in the file


class DivergenceGuard:
    """Checks the steps of one stage; the reason of a stop is written to ``folder``."""

    def __init__(self, folder: Path, stage: str, spike: float) -> None:
        self._folder, self._stage, self._spike = folder, stage, spike

    def non_finite(
        self, reason: str, step: int, loss: float, suspects: Sequence[str], batch: Sequence[str]
    ) -> InputError:
        """The error for a loss or gradients that are not finite numbers; ``suspects`` and ``batch``
        are ids of utterances.
        """
        return self._error(
            reason,
            step,
            loss,
            suspects,
            batch,
            "Lower the learning rate, or set numerics.dtype of the LLM to float32 or bfloat16.",
        )

    def check(
        self,
        step: int,
        row: dict[str, Any],
        curve: Sequence[dict[str, Any]],
        batch: Sequence[str],
    ) -> None:
        """Raises InputError where ``row`` of this step, after the rows of ``curve``, shows that the
        training diverges; ``batch`` are ids of utterances.
        """
        num_skipped = 0
        for previous in (row, *reversed(curve)):
            if not previous.get("skipped"):
                break
            num_skipped += 1
        if num_skipped >= MAX_SKIPPED_STEPS:
            raise self._error(
                f"gradients overflow fp16 in {num_skipped} steps in a row",
                step,
                row["loss"],
                batch,
                batch,
                "Set train.precision to bf16 or fp32, or lower the learning rate.",
            )
        losses = [previous["loss"] for previous in curve[-WINDOW:]]
        if self._spike and len(losses) >= MIN_STEPS and row["loss"] > self._spike * median(losses):
            raise self._error(
                f"the loss is {row['loss']:.3f}, {row['loss'] / median(losses):.1f} times the "
                "median before it",
                step,
                row["loss"],
                batch,
                batch,
                "Check these utterances, lower the learning rate, or raise train.spike.",
            )

    def _error(
        self,
        reason: str,
        step: int,
        loss: float,
        suspects: Sequence[str],
        batch: Sequence[str],
        hint: str,
    ) -> InputError:
        path = self._folder / STOPPED
        self._folder.mkdir(parents=True, exist_ok=True)
        record = {
            "stage": self._stage,
            "step": step,
            "reason": reason,
            "loss": str(loss),
            "utterances": list(batch),
        }
        # Another rank may write it at the same time.
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False))
        temporary.replace(path)
        names = ", ".join(suspects[:MAX_NAMED_UTTERANCES])
        return InputError(
            f"train: {reason} at step {step} of '{self._stage}' ({names} …; all utterances of "
            f"the step: {path}).",
            subject=names,
            hint=hint,
        )
