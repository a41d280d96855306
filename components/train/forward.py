"""The forward pass of a training step: the recordings of a micro-batch → their frames, masked → its
share of the step's loss.

In: examples (utterances or concatenated ones, and whether they are speech) and the epoch. Out: the
loss with its graph and its parts. Everything random is drawn from the seed, the stage, the
utterance and the epoch or step. Cost: the encoder's pass where frames are live, and the LLM's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from components.config.training import Train
from components.features.frames import FrameSource
from components.model.frame_noise import add_noise
from components.model.llms.batch import SpeechBatch, collate, collate_texts
from components.model.matching import MatchingWeights
from components.model.spec_augment import mask_frames
from components.model.speech_llm import SpeechLLM
from components.optim.precision import Precision
from components.runtime.hashing import seed_of
from components.shards.reader import IndexedUtterance, prefetch
from components.train.data import (
    TrainingExample,
    corrupt_input_tokens,
    recordings_of,
    separate_recordings,
)
from components.train.encoder_ctc import EncoderCtcLoss


@dataclass(frozen=True)
class StepLoss:
    """What a micro-batch adds to its step: ``total`` with a graph, all else as plain sums."""

    total: torch.Tensor  # ()
    cross_entropy: float  # over target tokens
    matching: float  # over text tokens
    num_correct: int  # target tokens that the LLM ranks first
    ctc: float  # over utterances; 0 where that loss is off
    num_tokens: int  # of the LLM's sequences
    num_padding: int  # positions beside them


@dataclass
class ForwardPass:
    """The losses of one stage of the curriculum; ``label`` is part of all its seeds."""

    model: SpeechLLM
    settings: Train
    label: str
    precision: Precision
    speech: FrameSource
    nonspeech: FrameSource
    encoder_ctc: EncoderCtcLoss | None  # the encoder's own loss, where it is on
    reads_text: bool = False  # transcripts alone: no frames are read
    _replacements: list[int] = field(init=False)  # tokens that may replace corrupted ones

    def __post_init__(self) -> None:
        vocabulary_size = self.model.llm.get_input_embeddings().num_embeddings
        self._replacements = (
            [token for token in self.model.builder.list_plain_tokens() if token < vocabulary_size]
            if self.settings.text_mask
            else []
        )

    def prefetch(self, upcoming: Sequence[tuple[int, Sequence[TrainingExample]]]) -> None:
        """Tells the reader what is read next: of each step its epoch and its examples."""
        if self.reads_text:
            return
        pieces = (
            (epoch, utterance, is_speech)
            for epoch, examples in upcoming
            for utterance, is_speech in separate_recordings(examples)
        )
        prefetch(
            [
                (self.speech if is_speech else self.nonspeech).locate(utterance, epoch)
                for epoch, utterance, is_speech in pieces
            ]
        )

    def transcript(self, example: TrainingExample) -> str:
        """The transcript that an example is trained on."""
        utterance, is_speech = example
        return utterance.text if is_speech else ""

    def count_targets(self, examples: Sequence[TrainingExample]) -> int:
        """Tokens that the examples of a step are trained on, ends of sequence included."""
        return sum(map(len, self._batch_targets(examples)))

    def _batch_targets(self, examples: Sequence[TrainingExample]) -> list[list[int]]:
        """The tokens of each example that are predicted."""
        builder, texts = self.model.builder, map(self.transcript, examples)
        if self.reads_text:
            return [builder.encode_alone(text) for text in texts]
        return [[*builder.encode(text), builder.eos] for text in texts]

    def loss(
        self,
        examples: list[TrainingExample],
        step: int,
        epoch: int,
        num_step_targets: int,
        num_step_utterances: int,
    ) -> StepLoss:
        """The loss of a micro-batch, as a share of a step of so many target tokens and
        recordings.
        """
        settings = self.settings
        first_id = examples[0][0].id
        torch.manual_seed(seed_of("dropout", settings.seed, self.label, step, first_id))
        # Of each recording: (frames, encoder width)
        frames = [] if self.reads_text else self._frames(examples, epoch)
        weights, weight = settings.matching, settings.matching.weight
        weight = 0.0 if self.reads_text else weight
        with self.precision.autocast():
            output = self.model(
                self._batch(examples, frames, step, epoch),
                MatchingWeights(weights.mse, weights.cosine) if weight else None,
            )
        total = (output.loss + weight * output.matching_loss) / num_step_targets
        ctc = (
            self.encoder_ctc.loss(separate_recordings(examples), frames)
            if self.encoder_ctc
            else None
        )
        if ctc is not None:  # a mean over utterances, since each is a mean over frames
            total = total + settings.ctc_weight * ctc / num_step_utterances
        return StepLoss(
            total,
            output.loss.item(),
            output.matching_loss.item(),
            output.num_correct,
            0.0 if ctc is None else ctc.item(),
            output.num_tokens,
            output.num_padding,
        )

    def _batch(
        self, examples: list[TrainingExample], frames: list[torch.Tensor], step: int, epoch: int
    ) -> SpeechBatch:
        if self.reads_text:
            embedding = self.model.llm.get_input_embeddings().weight
            targets = self._batch_targets(examples)
            return collate_texts(self.model.builder, targets, embedding[:0])
        targets = [self.model.builder.encode(self.transcript(example)) for example in examples]
        return collate(
            self.model.builder,
            targets,
            self._masked_frames(examples, epoch, frames),
            input_tokens=self._input_tokens(examples, targets, epoch),
            template_index=self._template_index(examples, step),
            is_packed=self.settings.packing,
        )

    def _frames(self, examples: list[TrainingExample], epoch: int) -> list[torch.Tensor]:
        """Frames of every recording, each (frames, encoder width); a concatenated utterance has
        several recordings.

        A tuned encoder computes in the precision of the training, a frozen one in its own, as where
        frames are cached.
        """
        pieces = separate_recordings(examples)
        encoder = self.model.encoder
        is_tuned = encoder is not None and any(
            parameter.requires_grad for parameter in encoder.parameters()
        )
        with self.precision.autocast() if is_tuned else contextlib.nullcontext():
            speech = iter(
                self.speech.frames([item for item, is_speech in pieces if is_speech], epoch)
            )
            nonspeech = iter(
                self.nonspeech.frames([item for item, is_speech in pieces if not is_speech], epoch)
            )
        return [next(speech) if is_speech else next(nonspeech) for _, is_speech in pieces]

    def _masked_frames(
        self, examples: list[TrainingExample], epoch: int, frames: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Frames of every utterance: those of its recordings, with noise and masks, one after the
        other.
        """
        settings = self.settings
        mask_seed, noise_seed = self._seeds("mask", epoch), self._seeds("noise", epoch)
        masked = (
            mask_frames(
                add_noise(recording, settings.frame_noise, noise_seed(item.id)),
                settings.spec_augment,
                mask_seed(item.id),
            )
            for recording, (item, _) in zip(frames, separate_recordings(examples), strict=True)
        )
        return [torch.cat([next(masked) for _ in recordings_of(item)]) for item, _ in examples]

    def _input_tokens(
        self, examples: list[TrainingExample], targets: list[list[int]], epoch: int
    ) -> list[list[int]] | None:
        """The tokens that the LLM reads of each transcript; None where they are the targets."""
        share, seed = self.settings.text_mask, self._seeds("text-mask", epoch)
        if not share:
            return None
        return [
            corrupt_input_tokens(target, share, self._replacements, seed(item.id))
            for target, (item, _) in zip(targets, examples, strict=True)
        ]

    def _template_index(self, examples: list[TrainingExample], step: int) -> list[int]:
        """Which of the prompt's templates surrounds each utterance at this step."""
        count, seed = len(self.model.builder.templates), self._seeds("prompt", step)
        return [seed(item.id) % count if count > 1 else 0 for item, _ in examples]

    def _seeds(self, kind: str, index: int) -> Callable[[str], int]:
        """Seeds by utterance id, of one kind of draw at a step or epoch."""
        return lambda utterance: seed_of(kind, self.settings.seed, self.label, index, utterance)


class TokenCounter:
    """Tokens of the LLM that an utterance takes, before anything is computed, for a batch's budget
    in tokens: prompt, speech as the projector makes it of the frames, transcript and its end.

    Each transcript is tokenized once.
    """

    def __init__(self, model: SpeechLLM, speech: FrameSource, nonspeech: FrameSource) -> None:
        self._builder, self._projector = model.builder, model.projector
        self._sources = (nonspeech, speech)
        self._transcript_tokens: dict[str, int] = {}

    def __call__(self, utterance: IndexedUtterance, is_speech: bool, epoch: int) -> int:
        """Tokens of an utterance in an epoch; those of speech at the most, where the bridge's
        number depends on what the frames are.
        """
        source = self._sources[is_speech]
        frames = sum(source.num_frames(part, epoch) for part in recordings_of(utterance))
        prompt = len(self._builder.before) + len(self._builder.after)
        text = self._count_transcript(utterance.text if is_speech else "")
        return prompt + text + self._projector.count_prompt_tokens(frames)

    def _count_transcript(self, text: str) -> int:
        if text not in self._transcript_tokens:
            self._transcript_tokens[text] = len(self._builder.encode(text)) + 1
        return self._transcript_tokens[text]
