"""The forward pass of a training step: the recordings of a micro-batch → their frames, masked → its
share of the step's loss.

In: examples (utterances or joined ones, and whether they are speech) and the epoch that hears them.
Out: the loss with its graph and what it is made of. Everything random is drawn from the seed, the
stage, the utterance and the epoch or step. Cost: the encoder's pass where frames are live, and the
LLM's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from components.config.training import Train
from components.features.frames import FrameSource
from components.model.spec_augment import mask_frames
from components.model.speech_llm import SpeechLLM
from components.optim.precision import Precision
from components.runtime.hashing import seed_of
from components.shards.reader import prefetch
from components.train.data import Example, corrupt_input_tokens, parts_of, pieces_of
from components.train.encoder_ctc import EncoderCtcLoss


@dataclass(frozen=True)
class StepLoss:
    """What a micro-batch adds to its step: ``total`` with a graph, the others as sums
    of numbers.
    """

    total: torch.Tensor
    entropy: float
    matching: float
    correct: int  # target tokens that the LLM ranks first
    ctc: float  # 0 where that loss is off
    read: int  # tokens of the LLM's sequences
    padding: int  # beside them

    def sums(self) -> torch.Tensor:
        """Shape (6,), float64: cross-entropy, matching, tokens ranked first, CTC; the LLM's tokens
        and padding.
        """
        return torch.tensor(
            [self.entropy, self.matching, self.correct, self.ctc, self.read, self.padding],
            dtype=torch.float64,
        )


@dataclass
class Forward:
    """The losses of one stage of the curriculum, ``label`` in all its seeds."""

    model: SpeechLLM
    settings: Train
    label: str
    precision: Precision
    speech: FrameSource
    silence: FrameSource
    auxiliary: EncoderCtcLoss | None  # the encoder's own loss, where it is on
    _plain: list[int] = field(init=False)  # tokens that may stand in for masked ones

    def __post_init__(self) -> None:
        known = self.model.llm.get_input_embeddings().num_embeddings
        self._plain = (
            [token for token in self.model.builder.plain_tokens() if token < known]
            if self.settings.text_mask
            else []
        )

    def prefetch(self, coming: Sequence[tuple[int, Sequence[Example]]]) -> None:
        """Tells the reader what is heard next: of each step its epoch and its examples."""
        pieces = (
            (epoch, item, spoken)
            for epoch, examples in coming
            for item, spoken in pieces_of(examples)
        )
        prefetch(
            [
                (self.speech if spoken else self.silence).located(item, epoch)
                for epoch, item, spoken in pieces
            ]
        )

    def text(self, example: Example) -> str:
        """The transcript that an example is trained on."""
        item, spoken = example
        return item.entry.text if spoken else ""

    def target_tokens(self, places: Sequence[Example]) -> int:
        """Tokens that the examples of a step are trained on, ends of sequence too."""
        return sum(len(self.model.builder.target(self.text(each))) + 1 for each in places)

    def loss(
        self, part: list[Example], step: int, epoch: int, tokens: int, utterances: int
    ) -> StepLoss:
        """The loss of a micro-batch as a share of a step of so many target ``tokens`` and
        recordings (``utterances``).
        """
        settings, weight = self.settings, self.settings.matching.weight
        torch.manual_seed(seed_of("dropout", settings.seed, self.label, step, part[0][0].entry.id))
        heard, texts = self._frames(part, epoch), [self.text(each) for each in part]
        with self.precision.computing():
            entropy, matching = self.model.losses(
                self._masked(part, epoch, heard),
                texts,
                settings.matching.mse * bool(weight),
                settings.matching.cosine * bool(weight),
                self._read(part, texts, epoch),
                settings.packing,
                self._templates(part, step),
            )
        total = (entropy.total + weight * matching) / tokens
        beside = self.auxiliary.loss(pieces_of(part), heard) if self.auxiliary else None
        if beside is not None:  # a mean of utterances, since each is a mean of frames
            total = total + settings.ctc_weight * beside / utterances
        return StepLoss(
            total,
            entropy.total.item(),
            matching.item(),
            entropy.correct,
            0.0 if beside is None else beside.item(),
            entropy.read,
            entropy.padding,
        )

    def _frames(self, part: list[Example], epoch: int) -> list[torch.Tensor]:
        """Frames of every recording in ``part``; a joined utterance has several.

        A tuned encoder computes in the precision of the training, a frozen one in its own: as where
        frames are cached.
        """
        pieces = pieces_of(part)
        encoder = self.model.encoder
        tuned = encoder is not None and any(
            parameter.requires_grad for parameter in encoder.parameters()
        )
        with self.precision.computing() if tuned else contextlib.nullcontext():
            spoken = iter(
                self.speech.frames([item for item, is_speech in pieces if is_speech], epoch)
            )
            quiet = iter(
                self.silence.frames([item for item, is_speech in pieces if not is_speech], epoch)
            )
        return [next(spoken) if is_speech else next(quiet) for _, is_speech in pieces]

    def _masked(
        self, part: list[Example], epoch: int, frames: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Frames of every utterance: those of its recordings, masked, one after the other."""
        seed = self._seeds("mask", epoch)
        left = (
            mask_frames(each, self.settings.spec_augment, seed(item.entry.id))
            for each, (item, _) in zip(frames, pieces_of(part), strict=True)
        )
        return [torch.cat([next(left) for _ in parts_of(item)]) for item, _ in part]

    def _read(self, part: list[Example], texts: list[str], epoch: int) -> list[list[int]] | None:
        """The tokens that the LLM reads of each transcript, where not all of them are its own."""
        share, target, seed = (
            self.settings.text_mask,
            self.model.builder.target,
            self._seeds("text-mask", epoch),
        )
        if not share:
            return None
        return [
            corrupt_input_tokens(target(text), share, self._plain, seed(item.entry.id))
            for text, (item, _) in zip(texts, part, strict=True)
        ]

    def _templates(self, part: list[Example], step: int) -> list[int]:
        """Which of the prompt's templates stands around each utterance at this step."""
        count, seed = len(self.model.builder.drawn), self._seeds("prompt", step)
        return [seed(item.entry.id) % count if count > 1 else 0 for item, _ in part]

    def _seeds(self, kind: str, turn: int) -> Callable[[str], int]:
        return lambda utterance: seed_of(kind, self.settings.seed, self.label, turn, utterance)
