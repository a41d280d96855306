"""The training loop of ``train``, ``encoder`` and ``llm``: schedule, micro-batches over ranks,
optimiser steps, checkpoints and resume.

In: an ``Objective`` (batches and their loss), a network, its optimiser and ``LoopSettings``. Out:
the trained network, and a checkpoint every N steps. A run that is killed and started again ends
with the same bits, because an objective draws all randomness from seeds that contain the step.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from components.config.errors import InputError
from components.optim import checkpoint
from components.optim.precision import Precision
from components.optim.ranks import Ranks, split_micro_batches
from components.runtime.progress import progress

logger = logging.getLogger(__name__)
Item = TypeVar("Item")  # one element of a batch, such as an utterance
# The loss scale of fp16 starts at 65,536 and is halved by each overflow: after so many in a row the
# gradients themselves overflow.
MAX_SKIPPED_STEPS = 20


@dataclass(frozen=True)
class LoopSettings:
    """What a loop needs to know besides its objective."""

    stage: str  # of the pipeline, for the progress display
    task: str  # what is trained, for the progress display
    num_steps: int
    warmup: int  # steps in which the learning rate rises to its peak
    decay: str  # of the learning rate after them: constant, linear or cosine
    clip: float  # largest norm of the gradients of all parameters together
    micro_batches: int  # per step, all ranks together
    checkpoint_every: int  # steps; the last step has a checkpoint too
    checkpoint: Path  # folder
    decay_steps: int = 0  # end of the learning rate's course; 0: with the last step
    path: str = "train"  # dotted, of the settings of the training, for messages


@dataclass(frozen=True)
class StepBatch(Generic[Item]):
    """What one optimiser step trains on; the counts are those that a loss is divided by."""

    items: Sequence[Item]
    num_utterances: int
    num_targets: int = 0  # tokens; 0 where the loss does not need them
    epoch: int = 0


@dataclass(frozen=True)
class MicroBatchLoss:
    """The share of a micro-batch in the loss of its step."""

    total: torch.Tensor  # shape (), with the graph of the backward pass
    figures: Mapping[str, float]  # summed over the step, for display and curves


@dataclass(frozen=True)
class StepResult:
    """What came out of one optimiser step, the same on every rank but for the time."""

    figures: dict[str, float]  # summed over micro-batches and ranks
    is_applied: bool  # False where gradients overflowed fp16 and the weights stayed as they were
    duration_s: float


class Objective(ABC, Generic[Item]):
    """What a loop minimises. ``batch`` and ``loss`` are required; the other methods are hooks that
    do nothing unless a training needs them.

    ``figure_names`` are the keys of ``MicroBatchLoss.figures``. ``is_overflow_fatal``: a loss that
    is not finite ends the training in fp16 too, where the loss scaler would skip its step.
    """

    figure_names: tuple[str, ...] = ()
    is_overflow_fatal = False

    @abstractmethod
    def batch(self, step: int) -> StepBatch[Item]:
        """The batch of a step (from 0), the same on every rank."""

    @abstractmethod
    def loss(self, micro_batch: list[Item], batch: StepBatch[Item], step: int) -> MicroBatchLoss:
        """The share of ``micro_batch`` in the loss of ``batch``: shares of all micro-batches add up
        to the loss.
        """

    def before_step(self, step: int) -> None:
        """Is called before the losses of a step."""

    def check_gradients(self) -> None:
        """Is called after the backward passes of the first step, where this rank had any."""

    def divergence_error(
        self, reason: str, step: int, loss: float, items: Sequence[Item], batch: StepBatch[Item]
    ) -> InputError | None:
        """The error for a loss or gradients that are not finite, on every rank; None for that of
        the loop. ``items`` are those whose loss it is, all of ``batch`` for gradients.
        """
        return None

    def after_step(self, step: int, batch: StepBatch[Item], result: StepResult) -> None:
        """Is called after a step."""

    def checkpoint_state(self, num_steps_done: int) -> dict[str, Any]:
        """Plain data that a checkpoint keeps for ``restore_state``. All ranks call it."""
        return {}

    def find_state_fault(self, state: dict[str, Any]) -> str:
        """Why ``restore_state`` can't take up a state, since files that belong to it are damaged;
        empty where it can. The first rank calls it.
        """
        return ""

    def restore_state(self, state: dict[str, Any]) -> None:
        """Takes up what ``checkpoint_state`` returned."""

    def note(self) -> str:
        """The note of the progress display, after a step and its checkpoint."""
        return ""

    def stop_reason(self) -> str:
        """Why the training ends before its last step; empty where it goes on."""
        return ""


@dataclass
class TrainingLoop:
    """Trains ``network`` with ``optimiser``, whose groups hold their peak learning rates."""

    ranks: Ranks
    network: torch.nn.Module
    optimiser: torch.optim.Optimizer
    settings: LoopSettings
    precision: Precision = field(default_factory=lambda: Precision("fp32", "cpu"))

    def __post_init__(self) -> None:
        groups = self.optimiser.param_groups
        self._peaks = [group["lr"] for group in groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._num_skipped = 0  # steps in a row

    def run(self, objective: Objective[Item]) -> None:
        """Makes all steps, from the newest checkpoint on where there is one.

        Raises InputError as ``step`` does, and where ``MAX_SKIPPED_STEPS`` in a row overflow fp16.
        """
        settings = self.settings
        first_step = self._resume(objective)
        self.ranks.barrier()
        display = progress(settings.stage, settings.task, settings.num_steps, "steps", first_step)
        with display if self.ranks.rank == 0 else contextlib.nullcontext() as bar:
            for step in range(first_step, settings.num_steps):
                if reason := objective.stop_reason():
                    if bar:
                        bar.end(reason)
                    break
                batch = objective.batch(step)
                result = self.step(objective, batch, step)
                objective.after_step(step, batch, result)
                self._check_skipped(step, result)
                num_steps_done = step + 1
                is_last = num_steps_done == settings.num_steps
                if is_last or num_steps_done % settings.checkpoint_every == 0:
                    self._save_checkpoint(objective, num_steps_done)
                if bar:
                    bar.advance(1, objective.note())

    def step(self, objective: Objective[Item], batch: StepBatch[Item], step: int) -> StepResult:
        """One optimiser step on ``batch``; all ranks call it with the same one.

        Raises InputError on all ranks, before a weight changes, where the loss or the gradients are
        not finite and no loss scaler skips the step.
        """
        started = time.monotonic()
        settings = self.settings
        objective.before_step(step)
        end = settings.decay_steps or settings.num_steps
        factor = learning_rate_factor(step, end, settings.warmup, settings.decay)
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.optimiser.zero_grad()

        names = objective.figure_names
        micro_batches = split_micro_batches(batch.items, settings.micro_batches)
        sums = torch.zeros(len(names), dtype=torch.float64)
        losses = torch.zeros(len(micro_batches), dtype=torch.float64)
        assigned = self.ranks.assigned_items(list(enumerate(micro_batches)))
        for (index, micro_batch), is_real in assigned:
            loss = objective.loss(micro_batch, batch, step)
            self.precision.backward(loss.total if is_real else loss.total * 0.0)
            if is_real:
                sums += torch.tensor([loss.figures[name] for name in names], dtype=torch.float64)
                losses[index] = loss.total.detach()
        # One exchange; afterwards every rank knows all losses, so that all raise the same error and
        # none waits for another.
        totals = self.ranks.sum(torch.cat([sums, losses])).tolist()
        self._check_losses(objective, step, totals[len(names) :], micro_batches, batch)
        if assigned and step == 0:
            objective.check_gradients()

        self.ranks.sum_gradients(self._parameters)

        def clip() -> None:
            norm = self.ranks.clip_gradients(self._parameters, settings.clip)
            if not (math.isfinite(norm) or self.precision.has_scaler):
                loss, reason = sum(totals[len(names) :]), f"the norm of the gradients is {norm}"
                raise self._divergence_error(objective, reason, step, loss, batch.items, batch)

        is_applied = self.precision.step(self.optimiser, clip)
        figures = dict(zip(names, totals[: len(names)], strict=True))
        return StepResult(figures, is_applied, time.monotonic() - started)

    def _check_losses(
        self,
        objective: Objective[Item],
        step: int,
        losses: Sequence[float],
        micro_batches: Sequence[list[Item]],
        batch: StepBatch[Item],
    ) -> None:
        """Raises InputError for the first micro-batch whose loss is not finite, unless the step
        will be skipped.
        """
        if self.precision.has_scaler and not objective.is_overflow_fatal:
            return
        for loss, micro_batch in zip(losses, micro_batches, strict=True):
            if not math.isfinite(loss):
                reason = f"the loss is {loss}"
                raise self._divergence_error(objective, reason, step, loss, micro_batch, batch)

    def _check_skipped(self, step: int, result: StepResult) -> None:
        self._num_skipped = 0 if result.is_applied else self._num_skipped + 1
        if self._num_skipped >= MAX_SKIPPED_STEPS:
            raise self._error(
                f"gradients overflow fp16 in {self._num_skipped} steps in a row", step
            )

    def _divergence_error(
        self,
        objective: Objective[Item],
        reason: str,
        step: int,
        loss: float,
        items: Sequence[Item],
        batch: StepBatch[Item],
    ) -> InputError:
        error = objective.divergence_error(reason, step, loss, items, batch)
        return error or self._error(reason, step)

    def _error(self, reason: str, step: int) -> InputError:
        settings, path = self.settings, self.settings.path
        precision = "" if self.precision.name == "fp32" else f", or set {path}.precision to fp32"
        return InputError(
            f"{settings.stage}: {reason} at step {step} of '{settings.task}'.",
            subject=f"{path}.learning_rate",
            hint=f"Lower {path}.learning_rate{precision}.",
        )

    def _resume(self, objective: Objective[Item]) -> int:
        """Restores the newest intact checkpoint; returns the number of steps that are done."""
        if not self._recover_checkpoint(objective):
            return 0
        state = checkpoint.load(self.settings.checkpoint, self.network, self.optimiser)
        self.precision.restore(state.pop("scaler", None))
        num_steps_done = int(state.pop("step"))
        objective.restore_state(state)
        return num_steps_done

    def _recover_checkpoint(self, objective: Objective[Item]) -> bool:
        """Whether there is a checkpoint to restore. The first rank looks, so that all ranks take
        the same one; it says what is damaged.
        """
        settings, is_there = self.settings, False
        if self.ranks.rank == 0:
            is_there, faults = checkpoint.recover(settings.checkpoint, objective.find_state_fault)
            if faults:
                logger.warning(
                    "%s: '%s' %s: damaged: %s",
                    settings.stage,
                    settings.task,
                    "continues from an older checkpoint"
                    if is_there
                    else "starts again from the first step",
                    faults,
                )
        return bool(self.ranks.sum(torch.tensor([int(is_there)])).item())

    def _save_checkpoint(self, objective: Objective[Item], num_steps_done: int) -> None:
        state = {
            "step": num_steps_done,
            **objective.checkpoint_state(num_steps_done),
            "scaler": self.precision.state(),
        }
        checkpoint.save(
            self.settings.checkpoint,
            self.network,
            self.optimiser,
            state,
            write=self.ranks.rank == 0,
        )
        self.ranks.barrier()


def learning_rate_factor(step: int, num_steps: int, warmup: int, decay: str) -> float:
    """Factor of the peak learning rate at ``step`` (from 0): linear warm-up, then ``constant``
    (SLAM-ASR, arXiv 2402.08846), ``linear`` decay (its released code) or ``cosine``, which reach 0
    after ``num_steps`` and stay there.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return {
        "constant": 1.0,
        "linear": 1.0 - share,
        "cosine": 0.5 * (1 + math.cos(math.pi * share)),
    }[decay]


def build_adamw(
    network: torch.nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for all parameters of a network that is
    trained from random weights.
    """
    return torch.optim.AdamW(
        network.parameters(),
        lr=learning_rate,
        weight_decay=weight_decay,
        betas=(0.9, 0.98),
        fused=True,
    )
