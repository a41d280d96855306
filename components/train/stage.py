"""One stage of the curriculum: its optimiser, its utterances and its place in the work cache.

In: a model and frames of the roles. Out: the weights of the checkpoint with the lowest dev word
error rate in the model, and a folder with checkpoints and curve. Cost: the steps of the stage, and
dev decoded at every checkpoint.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from components.config.errors import InputError
from components.config.training import CurriculumStage
from components.features.frames import FrameSource
from components.model.encoders.trained_head import TrainedHead
from components.optim import checkpoint
from components.optim.loop import (
    LoopSettings,
    TrainingLoop,
)
from components.optim.precision import Precision
from components.optim.ranks import Ranks
from components.runtime.unit_cache import Key
from components.shards.order import split_by_length
from components.shards.reader import IndexedUtterance
from components.train import stage_cache
from components.train.data import EpochDurations, plan_steps
from components.train.encoder_ctc import EncoderCtcLoss
from components.train.forward import ForwardPass, TokenCounter
from components.train.objective import StageContext, StageObjective
from components.train.parts import TrainableParts
from components.train.stage_cache import BEST, DONE, STEPS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoleSources:
    """Frames of the roles that a training reads, and what reads those of dev."""

    speech: FrameSource
    nonspeech: FrameSource
    dev: FrameSource
    head: TrainedHead | None = None  # that dev is decoded with, where a stage reads text


class StageTraining:
    """Trains one stage of the curriculum in ``scratch``.

    ``first_step`` is the number of steps in the stages before it.
    """

    def __init__(
        self,
        ranks: Ranks,
        parts: TrainableParts,
        stage: CurriculumStage,
        scratch: Path,
        device: str,
        index: int = 0,
        first_step: int = 0,
    ) -> None:
        settings = parts.settings
        self.context = StageContext(
            ranks,
            parts.model,
            settings,
            stage,
            scratch / f"{index}-{stage.name}",
            first_step,
            parts.uses_ctc_loss(stage),
        )
        groups, peaks = parts.tune(stage), parts.peak_rates(stage)
        self.optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": peaks[part]} for part, parameters in groups.items()],
            weight_decay=settings.weight_decay,
        )
        self.precision = Precision(settings.precision, device)

    def restore(self, key: Key) -> None:
        """Takes the finished stage from the work cache, where a training whose curriculum was the
        same up to its end left it. A finished stage with damaged files is trained again.
        """
        if self.context.ranks.rank == 0:
            self._drop_damaged()
            if stage_cache.restore(key, self.context.folder):
                logger.info(
                    "train: stage '%s' is taken from the work cache, where a training with the "
                    "same beginning left it",
                    self.context.stage.name,
                )
                self._drop_damaged()
        self.context.ranks.barrier()

    def _drop_damaged(self) -> None:
        if fault := stage_cache.drop_damaged(self.context.folder):
            logger.warning(
                "train: stage '%s' was finished and is trained again: damaged: %s (%s)",
                self.context.stage.name,
                self.context.folder,
                fault,
            )

    def store(self, key: Key) -> None:
        """Stores the finished stage in the work cache, for trainings that begin like this one."""
        if self.context.ranks.rank == 0:
            stage_cache.store(key, self.context.folder)
        self.context.ranks.barrier()

    def run(self, sources: RoleSources) -> int:
        """Trains the stage unless it is finished, and loads the weights of the selected checkpoint
        into the model; returns the number of its steps, those after an early end included.
        """
        folder, ranks = self.context.folder, self.context.ranks
        if not (folder / DONE).is_file():
            objective = self._objective(sources)
            self._log_length(objective)
            self.loop(len(objective.steps)).run(objective)
            if ranks.rank == 0:
                objective.write_curve()
                (folder / STEPS).write_text(f"{len(objective.steps)}\n")
                stage_cache.finish(folder)
            ranks.barrier()
        checkpoint.load(folder / BEST, self.context.model, None)
        return int((folder / STEPS).read_text())

    def loop(self, num_steps: int) -> TrainingLoop:
        """The loop that makes so many steps with the optimiser of the stage."""
        settings = _loop_settings(self.context, num_steps)
        return TrainingLoop(
            self.context.ranks, self.context.model, self.optimiser, settings, self.precision
        )

    def _log_length(self, objective: StageObjective) -> None:
        if self.context.ranks.rank == 0:
            logger.info(
                "train: stage '%s': %d steps, %.2f epochs, %.1f h of audio",
                self.context.stage.name,
                len(objective.steps),
                objective.steps[-1].epochs_done,
                objective.count_seconds() / 3600,
            )

    def _objective(self, sources: RoleSources) -> StageObjective:
        speech, nonspeech = self._training_utterances(sources)
        ctc_loss = EncoderCtcLoss(sources.speech, speech) if self.context.has_ctc_loss else None
        if ctc_loss and ctc_loss.skipped_summary and self.context.ranks.rank == 0:
            logger.warning(ctc_loss.skipped_summary)
        forward = ForwardPass(
            self.context.model,
            self.context.settings,
            self.context.label,
            self.precision,
            sources.speech,
            sources.nonspeech,
            ctc_loss,
            self.context.stage.reads == "text",
        )

        items = [(sources.speech, utterance) for utterance in speech]
        items += [(sources.nonspeech, utterance) for utterance in nonspeech]

        def epoch_durations(epoch: int) -> EpochDurations:
            return EpochDurations(
                [source.duration_s(utterance, epoch) for source, utterance in items],
                [source.frame_duration_s(utterance, epoch) for source, utterance in items],
            )

        token_counter = None
        if self.context.settings.batch_tokens:
            token_counter = TokenCounter(self.context.model, sources.speech, sources.nonspeech)
            self._log_long_utterances(token_counter, speech, nonspeech)
        steps = plan_steps(
            speech,
            nonspeech,
            self.context.settings,
            self.context.stage,
            epoch_durations,
            token_counter,
        )
        head = sources.head if self.context.stage.reads == "text" else None
        return StageObjective(
            self.context, forward, [*speech, *nonspeech], len(speech), steps, sources.dev, head
        )

    def _training_utterances(
        self, sources: RoleSources
    ) -> tuple[list[IndexedUtterance], list[IndexedUtterance]]:
        """Speech and non-speech of at most ``train.max_seconds``; raises InputError where the stage
        needs one of them and none is short enough.
        """
        longest, share = self.context.settings.max_seconds, self.context.stage.nonspeech_share
        speech, num_long = split_by_length(
            sources.speech.utterances, longest / sources.speech.max_stretch
        )
        nonspeech, num_long_nonspeech = split_by_length(
            sources.nonspeech.utterances, longest / sources.nonspeech.max_stretch
        )
        if (share < 1 and not speech) or (share and not nonspeech):
            raise InputError(
                f"train, stage '{self.context.stage.name}': there is no utterance to train on.",
                subject=self.context.stage.name,
                hint="Raise train.max_seconds or add a source.",
            )
        for number, source, kind in (
            (num_long, sources.speech, "utterances"),
            (num_long_nonspeech if share else 0, sources.nonspeech, "non-speech clips"),
        ):
            if number and self.context.ranks.rank == 0:
                logger.warning(
                    "train: %d of %d %s are longer than %s s and left out",
                    number,
                    len(source.utterances),
                    kind,
                    longest,
                )
        return speech, nonspeech

    def _log_long_utterances(
        self,
        token_counter: TokenCounter,
        speech: list[IndexedUtterance],
        nonspeech: list[IndexedUtterance],
    ) -> None:
        """Logs how many utterances are over the budget of tokens by themselves."""
        budget = self.context.settings.batch_tokens
        num_over = sum(
            token_counter(utterance, is_speech, 0) > budget
            for utterances, is_speech in ((speech, True), (nonspeech, False))
            for utterance in utterances
        )
        if num_over and self.context.ranks.rank == 0:
            logger.warning(
                "train: %d of %d utterances have more than %d tokens; each is a batch of its own",
                num_over,
                len(speech) + len(nonspeech),
                budget,
            )


def _loop_settings(context: StageContext, num_steps: int) -> LoopSettings:
    settings, stage = context.settings, context.stage
    return LoopSettings(
        stage="train",
        task=stage.name,
        num_steps=num_steps,
        warmup=stage.warmup,
        decay=stage.decay,
        clip=settings.clip,
        micro_batches=settings.micro_batches,
        checkpoint_every=settings.selection.every,
        checkpoint=context.folder / "last",
        decay_steps=stage.decay_steps or 0,
    )
