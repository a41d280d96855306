"""The objective of a curriculum stage: its batches, its loss, its curve and its checks.

In: utterances, the planned steps and a ``ForwardPass``. Out: losses with their graph for the
training loop, and a curve, one row for each step.

Loss: cross-entropy on the transcript and its end of sequence, and the matching loss, both divided
by the target tokens of the whole step, so that the number of ranks and micro-batches does not
matter; the encoder's CTC loss is divided by the utterances of the step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.config.training import CurriculumStage, Train
from components.features.frames import FrameSource
from components.model.encoders.trained_head import TrainedHead
from components.model.lora import check_gradients
from components.model.speech_llm import SpeechLLM
from components.optim import recomputation
from components.optim.loop import MicroBatchLoss, Objective, StepBatch, StepResult
from components.optim.ranks import Ranks
from components.shards.reader import IndexedUtterance
from components.train.data import (
    PlannedStep,
    TrainingExample,
    concatenate_utterances,
    separate_recordings,
)
from components.train.divergence import DivergenceGuard
from components.train.forward import ForwardPass
from components.train.selection import CheckpointSelection
from components.train.stage_cache import BEST, CURVE
from components.train.throughput import Throughput

logger = logging.getLogger(__name__)
# Every so many steps the reader learns what the next two times as many steps read, so that it can
# prefetch tars over a network.
PREFETCH_STEPS = 20


@dataclass(frozen=True)
class StageContext:
    """A stage of the curriculum and where it is trained."""

    ranks: Ranks
    model: SpeechLLM
    settings: Train
    stage: CurriculumStage
    folder: Path  # of the stage: checkpoints, curve, throughput
    first_step: int  # number of steps in the stages before it
    has_ctc_loss: bool  # of the encoder

    @property
    def label(self) -> str:
        """Index and name of the stage; a part of all its seeds."""
        return self.folder.name


class StageObjective(Objective[TrainingExample]):
    """Batches, loss, checks and checkpoint selection of a stage.

    ``utterances`` are speech, ``num_speech`` of them, and then non-speech; ``steps`` hold indices
    among them. ``head`` is the CTC head whose texts the selection rescores, where the stage reads
    text.
    """

    # A loss that is not finite comes from values inside the LLM, which a scale of the loss does not
    # change, and it would be a gap in the curve.
    is_overflow_fatal = True
    # fields of StepLoss
    figure_names = ("cross_entropy", "matching", "num_correct", "ctc", "num_tokens", "num_padding")

    def __init__(
        self,
        context: StageContext,
        forward: ForwardPass,
        utterances: Sequence[IndexedUtterance],
        num_speech: int,
        steps: list[PlannedStep],
        dev: FrameSource,
        head: TrainedHead | None = None,
    ) -> None:
        self.context, self.forward, self.steps = context, forward, steps
        self._utterances, self._num_speech = utterances, num_speech
        self._guard = DivergenceGuard(
            context.folder.parent, context.stage.name, context.settings.spike
        )
        self._throughput = Throughput(context.folder)
        self._selection = CheckpointSelection(
            context.ranks, context.model, dev, context.settings, context.folder / BEST, head
        )
        self._curve: list[dict[str, Any]] = []
        self._has_prefetched = False

    def batch(self, step: int) -> StepBatch[TrainingExample]:
        """The planned batch of a step; every ``PREFETCH_STEPS`` steps the reader prefetches."""
        if step % PREFETCH_STEPS == 0 or not self._has_prefetched:
            upcoming = self.steps[step : step + 2 * PREFETCH_STEPS]
            self.forward.prefetch(
                [(planned.epoch, self._examples(planned)) for planned in upcoming]
            )
            self._has_prefetched = True
        examples, epoch = self._examples(self.steps[step]), self.steps[step].epoch
        num_targets = self.forward.count_targets(examples)
        return StepBatch(examples, len(separate_recordings(examples)), num_targets, epoch)

    def _examples(self, planned: PlannedStep) -> list[TrainingExample]:
        return [
            (
                concatenate_utterances([self._utterances[index] for index in indices]),
                indices[0] < self._num_speech,
            )
            for indices in planned.members
        ]

    def count_seconds(self) -> float:
        """Seconds of audio in all steps, as recorded."""
        return sum(
            self._utterances[index].duration_s
            for planned in self.steps
            for indices in planned.members
            for index in indices
        )

    def before_step(self, step: int) -> None:
        """Sets the modes of the networks."""
        set_training_mode(self.context.model)

    def loss(
        self, micro_batch: list[TrainingExample], batch: StepBatch[TrainingExample], step: int
    ) -> MicroBatchLoss:
        """The loss of a micro-batch."""
        loss = self.forward.loss(
            micro_batch, step, batch.epoch, batch.num_targets, batch.num_utterances
        )
        figures = {name: getattr(loss, name) for name in self.figure_names}
        return MicroBatchLoss(loss.total, figures)

    def divergence_error(
        self,
        reason: str,
        step: int,
        loss: float,
        items: Sequence[TrainingExample],
        batch: StepBatch[TrainingExample],
    ) -> InputError:
        """The error that names the utterances; they are written to a file too."""
        return self._guard.non_finite(reason, step, loss, _ids(items), _ids(batch.items))

    def check_gradients(self) -> None:
        """Raises InputError where something that the stage tunes has no gradient."""
        # The matching head has none where its loss has no weight.
        check_gradients(
            self.context.model, f"train, stage '{self.context.stage.name}'", exempt=("matching.",)
        )

    def after_step(self, step: int, batch: StepBatch[TrainingExample], result: StepResult) -> None:
        """Adds a row to the curve; raises InputError where the loss diverges."""
        figures, tokens = result.figures, batch.num_targets
        audio_s = sum(utterance.duration_s for utterance, _ in batch.items)
        self._throughput.add(
            result.duration_s,
            audio_s,
            int(figures["num_tokens"]),
            int(figures["num_padding"]),
        )
        row = {
            "step": self.context.first_step + step,
            "stage": self.context.stage.name,
            "epoch": self.steps[step].epochs_done,
            "audio_s": audio_s,
            "loss": figures["cross_entropy"] / tokens,
            "matching": figures["matching"] / tokens,
            "accuracy": figures["num_correct"] / tokens,
        }
        if self.context.has_ctc_loss:
            row["ctc"] = figures["ctc"] / batch.num_utterances
        if not result.is_applied:
            row["skipped"] = 1
        self._guard.check(step, row, self._curve, _ids(batch.items))
        self._curve.append(row)

    def note(self) -> str:
        """Accuracy of the last step, the newest dev word error rate, and the rates."""
        accuracy = f"accuracy {self._curve[-1]['accuracy']:.3f}"
        wer = next((row["dev_wer"] for row in reversed(self._curve) if "dev_wer" in row), None)
        dev = [] if wer is None else [f"dev WER {wer:.3f}"]
        return ", ".join([accuracy, *dev, self._throughput.note()])

    def checkpoint_state(self, num_steps_done: int) -> dict[str, Any]:
        """Decodes dev, adds its word error rate to the curve, and selects the checkpoint if it is
        the best so far.
        """
        row = self._curve[-1]
        row["dev_wer"] = self._selection.check(num_steps_done)
        if self.stop_reason():
            row["stopped"] = "early"
        if self.context.ranks.rank == 0:
            self._throughput.save()
            self._log_check(num_steps_done, row)
        return {
            "best": self._selection.best,
            "curve": self._curve,
            "waited": self._selection.num_checks_without_gain,
        }

    def _log_check(self, num_steps_done: int, row: dict[str, Any]) -> None:
        logger.info(
            "train: %s, step %d: dev word error rate %.4f, next-token accuracy %.3f",
            self.context.stage.name,
            num_steps_done,
            row["dev_wer"],
            row["accuracy"],
        )
        if reason := self.stop_reason():
            logger.info(
                "train: stage '%s' stops at step %d: %s",
                self.context.stage.name,
                num_steps_done,
                reason,
            )

    def find_state_fault(self, state: dict[str, Any]) -> str:
        """What is wrong with the weights that a state has selected; empty where nothing is."""
        return self._selection.find_fault(state["best"])

    def restore_state(self, state: dict[str, Any]) -> None:
        """Takes up what ``checkpoint_state`` returned."""
        self._curve = state["curve"]
        self._selection.best = state["best"]
        self._selection.num_checks_without_gain = state["waited"]

    def stop_reason(self) -> str:
        """Why the stage ends early; empty where it goes on."""
        return self._selection.stop_reason()

    def write_curve(self) -> None:
        """Writes the curve into the folder of the stage, one JSON line a step."""
        lines = "".join(json.dumps(row) + "\n" for row in self._curve)
        (self.context.folder / CURVE).write_text(lines)


def set_training_mode(model: SpeechLLM) -> None:
    """Sets the model to evaluation mode except for projector, matching head and LoRA's dropout.

    Encoder and LLM are in evaluation mode although they are tuned: batch norm uses the statistics
    of a pre-training that saw far more speech than a step does, and layer drop and masking, which
    are for training from random weights, would hide frames from an LLM that needs them all.
    """
    model.eval()
    model.projector.train()
    model.matching.train()
    for network in filter(None, (model.llm, model.encoder)):
        recomputation.activate(network)
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()


def _ids(examples: Sequence[TrainingExample]) -> list[str]:
    return [utterance.id for utterance, _ in separate_recordings(examples)]
