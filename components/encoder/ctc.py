"""Training of a small encoder with CTC (Graves et al. 2006) on the train role, in an architecture
that transformers loads.

Shards → a folder in HF form: weights (safetensors), feature extractor, tokenizer. Targets are
lower-case characters or subwords; some non-speech with an empty target teaches the encoder to write
nothing. It trains on the ranks and the device of ``components.optim.engine``. Cost at embedded size
(2.1 M parameters, 8 h of speech, 3 epochs): about 6 minutes on two cores, one process each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
)

from components.audio.augmentation import perturbed_length
from components.audio.sound import RATE
from components.config.errors import InputError
from components.config.model_sources import CtcTraining
from components.encoder.examples import (
    FRAMES_PER_SECOND,
    CtcExample,
    CtcExamples,
    compute_examples,
    num_views,
    pad_examples,
    plan_batches,
)
from components.encoder.tokenizers import build_character_tokenizer, build_subword_tokenizer
from components.model.encoders.ctc import count_min_frames, sum_loss_per_frame
from components.model.folders.architecture import try_architecture
from components.model.spec_augment import mask_frames
from components.optim.loop import (
    LoopSettings,
    MicroBatchLoss,
    Objective,
    StepBatch,
    StepResult,
    TrainingLoop,
    build_adamw,
)
from components.optim.precision import Precision
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of
from components.shards.order import split_by_length
from components.shards.reader import IndexedUtterance, list_utterances

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderTraining:
    """What a process needs to know to train an encoder; plain data."""

    shards: str  # folder of the train role
    nonspeech: str  # folder of the nonspeech-train role
    out: str  # folder of the finished encoder
    scratch: str  # folder of checkpoints and examples
    config: dict[str, Any]  # of transformers' ParakeetEncoderConfig
    settings: CtcTraining


def build_encoder(config: dict[str, Any], num_units: int, seed: int) -> ParakeetForCTC:
    """The model with random weights drawn from ``seed``; blank is unit 0."""
    torch.manual_seed(seed_of("encoder", seed))
    encoder_config = ParakeetEncoderConfig(**config)
    return ParakeetForCTC(
        ParakeetCTCConfig(vocab_size=num_units, pad_token_id=0, encoder_config=encoder_config)
    )


def check_architecture(where: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for an architecture that does
    not work.
    """
    num_mel_frames = 400
    output = try_architecture(
        where,
        "parakeet_encoder",
        config,
        lambda full: {"input_features": torch.zeros(1, num_mel_frames, full.num_mel_bins)},
    )
    factor, num_frames = int(config.get("subsampling_factor", 8)), output.last_hidden_state.shape[1]
    if num_frames != -(-num_mel_frames // factor):
        raise InputError(
            f"{where}: source.config: subsampling_factor is {factor}; the encoder only halves.",
            subject="subsampling_factor",
            hint="Set it to 2, 4 or 8.",
        )


def train(ranks: Ranks, training: EncoderTraining, device: str = "cpu") -> None:
    """Trains the encoder on ``device`` and, on the first rank, writes the finished folder to
    ``training.out``.

    Raises InputError where there is no speech to train on, where most transcripts have more units
    than the encoder has frames, and where noise is to be added and there is none.
    """
    settings, scratch = training.settings, Path(training.scratch)
    speech, nonspeech = _training_utterances(ranks, training)
    utterances = [*speech, *nonspeech]
    scratch.mkdir(parents=True, exist_ok=True)
    texts = [utterance.text.lower() for utterance in speech]
    if settings.units:
        tokenizer = build_subword_tokenizer(texts, settings.units)
    else:
        tokenizer = build_character_tokenizer(texts, _rank_folder(scratch, ranks))
    extractor = ParakeetFeatureExtractor(feature_size=int(training.config.get("num_mel_bins", 80)))
    examples = compute_examples(ranks, utterances, extractor, tokenizer, scratch, settings)
    num_speech_views = len(speech) * num_views(settings)
    model = build_encoder(training.config, len(tokenizer), settings.seed).to(device).train()
    _check_lengths(model, examples, num_speech_views)

    durations_s = [examples.duration_s(index) for index in range(len(examples))]
    plan = plan_batches(utterances, len(speech), durations_s, settings)
    optimiser = build_adamw(model, settings.learning_rate, settings.weight_decay)
    precision = Precision(settings.precision, device)
    loop_settings = _loop_settings(training, len(plan))
    loop = TrainingLoop(ranks, model, optimiser, loop_settings, precision)
    objective = CtcObjective(model, examples, plan, settings, precision)
    loop.run(objective)
    objective.recompute_batch_norm()

    if ranks.rank == 0:
        model.eval().save_pretrained(training.out)
        extractor.save_pretrained(training.out)
        tokenizer.save_pretrained(training.out)
    ranks.barrier()


def _training_utterances(
    ranks: Ranks, training: EncoderTraining
) -> tuple[list[IndexedUtterance], list[IndexedUtterance]]:
    """Speech and non-speech of at most ``max_seconds``, and of at least two frames of the encoder;
    raises InputError where no speech is left.
    """
    settings = training.settings
    longest_s = settings.max_seconds or math.inf
    fastest = max(settings.augment.speed) if settings.augment else 1.0
    # Of one log-mel frame the extractor has no variance, of one frame of the encoder batch norm.
    num_mel_frames = int(training.config.get("subsampling_factor", 8)) + 1
    shortest_s = num_mel_frames / FRAMES_PER_SECOND * fastest

    def is_long_enough(utterance: IndexedUtterance) -> bool:
        num_samples = perturbed_length(utterance.num_samples, fastest)
        return num_samples // (RATE // FRAMES_PER_SECOND) >= num_mel_frames

    roles: list[list[IndexedUtterance]] = []
    for folder, kind in (
        (training.shards, "utterances"),
        (training.nonspeech, "non-speech clips"),
    ):
        listed = list_utterances(Path(folder))
        short, num_long = split_by_length(listed, longest_s)
        members = list(filter(is_long_enough, short))
        if not roles and not members:
            raise InputError(
                f"encoder: none of {len(listed)} utterances has at least {shortest_s:g} s and at "
                f"most {longest_s:g} s.",
                subject="encoder",
                hint="Raise source.training.max_seconds of its entry, or add a source.",
            )
        for number, bound in (
            (num_long, f"longer than {longest_s:g} s"),
            (len(short) - len(members), f"shorter than {shortest_s:g} s"),
        ):
            if number and ranks.rank == 0:
                text = "encoder: %d of %d %s are %s and left out"
                logger.warning(text, number, len(listed), kind, bound)
        roles.append(members)
    speech, nonspeech = roles
    return speech, nonspeech


def _rank_folder(scratch: Path, ranks: Ranks) -> Path:
    """A folder in which only this rank writes."""
    if ranks.rank == 0:
        return scratch
    folder = scratch / f"rank-{ranks.rank}"
    folder.mkdir(exist_ok=True)
    return folder


def _loop_settings(training: EncoderTraining, num_steps: int) -> LoopSettings:
    settings = training.settings
    return LoopSettings(
        stage="encoder",
        task="CTC training",
        num_steps=num_steps,
        warmup=settings.warmup,
        decay="cosine",
        clip=settings.clip,
        micro_batches=settings.micro_batches,
        checkpoint_every=settings.checkpoint_every,
        checkpoint=Path(training.scratch) / "checkpoint",
        path="source.training",
    )


def _check_lengths(model: ParakeetForCTC, examples: CtcExamples, num_speech: int) -> None:
    """Raises InputError where most targets of the first ``num_speech`` examples have more units
    than frames: CTC has no path for them and learns nothing.
    """
    indices = range(num_speech)
    mel_lengths = torch.tensor([examples.num_mel_frames(index) for index in indices])
    lengths = model.encoder._get_subsampling_output_length(mel_lengths).tolist()
    num_too_long = sum(
        num_frames < count_min_frames(examples.target(index).tolist())
        for index, num_frames in zip(indices, lengths, strict=True)
    )
    if 2 * num_too_long > num_speech:
        raise InputError(
            f"{num_too_long} of {num_speech} transcripts have more units than the encoder has "
            "frames.",
            subject="encoder",
            hint="Set source.training.units of its entry, or a lower "
            "source.config.subsampling_factor.",
        )


def encode_examples(
    model: ParakeetForCTC, examples: Sequence[CtcExample]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of examples, shape (batch, frames, width), and how many of them are real, shape
    (batch,), on the device of the model.
    """
    mel, mask = pad_examples(examples)  # (batch, mel frames, mel bands), (batch, mel frames)
    device = model.device
    output = model.encoder(input_features=mel.to(device), attention_mask=mask.to(device))
    return output.last_hidden_state, output.attention_mask.sum(-1)


def ctc_loss(model: ParakeetForCTC, examples: Sequence[CtcExample]) -> torch.Tensor:
    """Sum over utterances of CTC loss / frames, shape ()."""
    hidden_states, num_frames = encode_examples(model, examples)
    return sum_loss_per_frame(
        model.ctc_head(hidden_states),  # (batch, frames, units)
        num_frames,
        [example.target for example in examples],
    )


@dataclass
class CtcObjective(Objective[int]):
    """CTC loss / frames, averaged over the utterances of a planned batch, whose items are indices
    of examples.
    """

    model: ParakeetForCTC
    examples: Sequence[CtcExample]
    plan: Sequence[Sequence[int]]
    settings: CtcTraining
    precision: Precision
    _loss: float = field(default=math.nan, init=False)  # of the last step
    figure_names = ("loss",)

    def batch(self, step: int) -> StepBatch[int]:
        """The planned batch."""
        return StepBatch(self.plan[step], len(self.plan[step]))

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        """CTC loss of masked examples, divided by the utterances of the step."""
        torch.manual_seed(seed_of("dropout", self.settings.seed, step, micro_batch[0]))
        examples = [self._masked(index) for index in micro_batch]
        with self.precision.autocast():
            loss = ctc_loss(self.model, examples) / batch.num_utterances
        return MicroBatchLoss(loss, {"loss": loss.item()})

    def after_step(self, step: int, batch: StepBatch[int], result: StepResult) -> None:
        """Keeps the loss for the progress display."""
        self._loss = result.figures["loss"]

    def note(self) -> str:
        """The loss."""
        return f"loss {self._loss:.3f}"

    def _masked(self, index: int) -> CtcExample:
        """An example with stretches of its log-mel set to zero where the training masks."""
        example, augment = self.examples[index], self.settings.augment
        if augment is None:
            return example
        seed = seed_of("encoder-mask", self.settings.seed, index)
        return replace(example, mel=mask_frames(example.mel, augment.masks, seed))

    @torch.no_grad()
    def recompute_batch_norm(self) -> None:
        """Computes the statistics of batch norm over some batches with the final weights.

        The running statistics lag behind, and each rank has those of its own micro-batches. All
        ranks compute the same.
        """
        for module in self.model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None  # a plain average
        torch.manual_seed(seed_of("dropout", self.settings.seed, "statistics"))
        stride = max(1, len(self.plan) // self.settings.statistics_batches)
        for batch in self.plan[::stride][: self.settings.statistics_batches]:
            with self.precision.autocast():
                encode_examples(self.model, [self.examples[index] for index in batch])
