"""What stops a training that has gone wrong: a loss that is no number, one that jumps, steps that
overflow one after the other.

The step, its loss and all of its utterances are kept in ``stopped.json`` of the training's own
folder, which the message names. The checkpoint before it stays: started again as it is, the
training goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from components.config.errors import InputError

STOPPED = "stopped.json"
WINDOW = 100  # steps whose median loss is what a spike is measured by
LEAST = 10  # steps before there is one to speak of
# The scale of fp16 starts at 65,536 and is halved by each overflow: after so many in a row it is
# the gradients themselves.
SKIPPED_IN_A_ROW = 20
NAMED = 5  # utterances in a message; all are in the file


class DivergenceGuard:
    """Watches one stage's steps; ``folder`` is where the reason is kept."""

    def __init__(self, folder: Path, stage: str, spike: float) -> None:
        self._folder, self._stage, self._spike = folder, stage, spike

    def non_finite(
        self, step: int, loss: float, part: Sequence[str], ids: Sequence[str]
    ) -> InputError:
        """The error for a loss that is no number, of the micro-batch ``part`` among the step's
        ``ids``.
        """
        return self._error(
            f"the loss is {loss}",
            step,
            loss,
            part,
            ids,
            "Lower the learning rate, or set numerics.dtype of the LLM to float32 or bfloat16.",
        )

    def check(
        self, step: int, line: dict[str, Any], before: Sequence[dict[str, Any]], ids: Sequence[str]
    ) -> None:
        """Raises InputError where the curve's ``line`` of this step, after those ``before`` it, is
        no training any more.
        """
        skipped = 0
        for each in (line, *reversed(before)):
            if not each.get("skipped"):
                break
            skipped += 1
        if skipped >= SKIPPED_IN_A_ROW:
            raise self._error(
                f"gradients overflow fp16 in {skipped} steps in a row",
                step,
                line["loss"],
                ids,
                ids,
                "Set train.precision to bf16 or fp32, or lower the learning rate.",
            )
        last = [each["loss"] for each in before[-WINDOW:]]
        if self._spike and len(last) >= LEAST and line["loss"] > self._spike * median(last):
            raise self._error(
                f"the loss is {line['loss']:.3f}, {line['loss'] / median(last):.1f} times the "
                "median before it",
                step,
                line["loss"],
                ids,
                ids,
                "Look at these utterances, lower the learning rate, or raise train.spike.",
            )

    def _error(
        self,
        what: str,
        step: int,
        loss: float,
        part: Sequence[str],
        ids: Sequence[str],
        hint: str,
    ) -> InputError:
        path = self._folder / STOPPED
        self._folder.mkdir(parents=True, exist_ok=True)
        record = {
            "stage": self._stage,
            "step": step,
            "reason": what,
            "loss": str(loss),
            "utterances": list(ids),
        }
        fresh = path.with_suffix(
            f".{os.getpid()}"
        )  # another rank may come upon it at the same time
        fresh.write_text(json.dumps(record, indent=1, ensure_ascii=False))
        fresh.replace(path)
        names = ", ".join(part[:NAMED])
        return InputError(
            f"train: {what} at step {step} of '{self._stage}' ({names} …; all utterances of "
            f"the step: {path}).",
            subject=names,
            hint=hint,
        )
