"""What a step of the training of a CTC head minimises.

In: utterances with the units of their transcripts. Out: the CTC loss of their masked frames, and,
where ``ctc.consistency`` asks for it, how far two masked copies of an utterance are scored apart.
Cost: a copy more for each utterance doubles the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from components.config.augment import SpecAugment
from components.features.frames import FrameSource
from components.model.encoders.ctc import sum_loss_per_frame
from components.model.encoders.trained_head import FrameClassifier
from components.model.spec_augment import mask_frames
from components.optim.loop import MicroBatchLoss, Objective, StepBatch, StepResult
from components.optim.precision import Precision
from components.runtime.hashing import seed_of
from components.shards.reader import IndexedUtterance, prefetch

BETWEEN_SHARE = 0.5  # of the loss, from the scores between blocks (Nozaki and Komatsu 2021)
PREFETCH_STEPS = 100  # for which, and as many more, tars are fetched ahead of time


@dataclass(frozen=True)
class HeadItem:
    """An utterance, where its frames come from, and its units."""

    source: FrameSource
    utterance: IndexedUtterance
    target: list[int]


@dataclass(frozen=True)
class HeadBatch:
    """Utterances of one step."""

    epoch: int
    indices: list[int]  # of speech, then of non-speech


@dataclass
class HeadObjective(Objective[int]):
    """CTC loss / frames, averaged over the utterances of a planned batch, whose items are indices
    of ``items``. With ``consistency`` each utterance is read twice, with other masks and other
    dropout: the loss is the mean of both, and ``consistency`` times their divergence.
    """

    head: FrameClassifier
    items: Sequence[HeadItem]
    plan: Sequence[HeadBatch]
    seed: int  # of the masks
    spec_augment: SpecAugment
    consistency: float
    precision: Precision
    _loss: float = field(default=math.nan, init=False)  # of the last step
    _has_prefetched: bool = field(default=False, init=False)
    figure_names = ("loss",)

    @property
    def num_copies(self) -> int:
        """How often an utterance is read in a step."""
        return 2 if self.consistency else 1

    def batch(self, step: int) -> StepBatch[int]:
        """The planned batch."""
        batch = self.plan[step]
        return StepBatch(batch.indices, len(batch.indices), epoch=batch.epoch)

    def before_step(self, step: int) -> None:
        """Every ``PREFETCH_STEPS`` steps the reader prefetches."""
        if step % PREFETCH_STEPS == 0 or not self._has_prefetched:
            upcoming = self.plan[step : step + 2 * PREFETCH_STEPS]
            prefetch(
                item.source.locate(item.utterance, batch.epoch)
                for batch in upcoming
                for item in map(self.items.__getitem__, batch.indices)
            )
            self._has_prefetched = True

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        """The loss of the micro-batch, divided by the utterances of the step."""
        torch.manual_seed(seed_of("ctc-dropout", self.seed, step, micro_batch[0]))
        items = [self.items[index] for index in micro_batch]
        frames = self._mask(items, _read_frames(items, batch.epoch), batch.epoch)
        num_frames = torch.tensor([len(utterance) for utterance in frames])  # (B,)
        padded = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)  # (B, T, width)
        is_frame = torch.arange(padded.shape[1])[None] < num_frames[:, None]  # (B, T)
        with self.precision.autocast():
            scores = self.head.score_layers(padded, is_frame.to(padded.device))
        num_steps = num_frames.div(self.head.stride, rounding_mode="floor").clamp(min=1)
        targets = [torch.tensor(item.target, dtype=torch.long) for item in items] * self.num_copies
        *between, last = [
            sum_loss_per_frame(layer_scores, num_steps, targets) for layer_scores in scores
        ]
        if between:
            share = BETWEEN_SHARE
            last = (1 - share) * last + share * torch.stack(between).mean()
        loss = last / self.num_copies
        if self.consistency:
            divergence = sum_divergence_per_frame(scores[-1], num_steps[: len(items)])
            loss = loss + self.consistency * divergence
        loss = loss / batch.num_utterances
        return MicroBatchLoss(loss, {"loss": loss.item()})

    def _mask(
        self, items: Sequence[HeadItem], frames: Sequence[torch.Tensor], epoch: int
    ) -> list[torch.Tensor]:
        """The masked frames of each item, then those of each second copy."""
        return [
            mask_frames(
                utterance,
                self.spec_augment,
                seed_of("ctc-masks", self.seed, item.utterance.id, epoch, copy),
            )
            for copy in range(self.num_copies)
            for item, utterance in zip(items, frames, strict=True)
        ]

    def after_step(self, step: int, batch: StepBatch[int], result: StepResult) -> None:
        """Keeps the loss for the progress display."""
        self._loss = result.figures["loss"]

    def note(self) -> str:
        """The loss."""
        return f"loss {self._loss:.3f}"


def sum_divergence_per_frame(scores: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
    """Sum over utterances of the divergence between the two copies of each / steps, shape ():
    CR-CTC (Yao et al. 2025, arXiv 2410.05101, section 3.2).

    ``scores`` are (2 B, steps, units), the second copies after the first; ``num_steps`` (B,). Each
    copy is drawn towards the distributions of the other, which have no gradient: the mean of
    KL(second ‖ first) and KL(first ‖ second).
    """
    first, second = scores.float().log_softmax(-1).chunk(2)  # (B, steps, units)
    divergences = [
        functional.kl_div(student, teacher.detach(), reduction="none", log_target=True).sum(-1)
        for student, teacher in ((first, second), (second, first))
    ]
    mean = torch.stack(divergences).mean(0)  # (B, steps)
    num_steps = num_steps.to(mean.device)
    is_step = torch.arange(mean.shape[1], device=mean.device)[None] < num_steps[:, None]
    return ((mean * is_step).sum(1) / num_steps).sum()


def _read_frames(items: Sequence[HeadItem], epoch: int) -> list[torch.Tensor]:
    """The frames of each item, (frames, width), in their order."""
    frames: dict[int, torch.Tensor] = {}
    for source in {id(item.source): item.source for item in items}.values():
        indices = [index for index, item in enumerate(items) if item.source is source]
        read = source.frames([items[index].utterance for index in indices], epoch)
        frames |= zip(indices, read, strict=True)
    return [frames[index] for index in range(len(items))]
