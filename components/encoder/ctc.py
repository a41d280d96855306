"""Training a small encoder with CTC (Graves et al. 2006) on the train role, in an architecture that
transformers loads.

Shards → a folder in HF form: weights (safetensors), feature extractor, tokenizer. Targets are
lower-case characters, or subwords where frames are too long for characters; some non-speech with an
empty target teaches it to stay silent. Cost at embedded size (2.1 M parameters, 8 h of speech, 3
epochs): about 6 minutes on two cores, one process each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetTokenizer,
    Wav2Vec2CTCTokenizer,
)

from components.audio.augmentation import Augmentation
from components.config.augment import Augment, Rooms
from components.config.errors import InputError
from components.config.model_sources import CtcTraining
from components.model.encoders.ctc import frames_needed, loss_by_frames
from components.model.folders.architecture import check_trained
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
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of
from components.runtime.progress import progress
from components.shards.order import batches, split_by_length, windows
from components.shards.reader import IndexedUtterance, ShardClip, audio, entries

MELS_A_SECOND = 100
BLANK, DELIMITER, UNKNOWN = "<pad>", "|", "<unk>"


@dataclass(frozen=True)
class Job:
    """What a training process needs to know; plain data."""

    shards: str  # folder of the train role
    nonspeech: str  # folder of the nonspeech-train role
    out: str
    scratch: str
    config: dict[str, Any]
    training: CtcTraining


@dataclass(frozen=True)
class Example:
    """Normalised log-mel, shape (frames, mel), half precision, and its character ids."""

    mel: torch.Tensor
    target: torch.Tensor
    seconds: float


def views_of(training: CtcTraining) -> int:
    """Differently augmented views of an utterance: one an epoch, or the recording alone."""
    return training.epochs if training.augment else 1


def tokenizer_for(texts: Sequence[str], folder: Path) -> Wav2Vec2CTCTokenizer:
    """A character tokenizer over ``texts``: blank first, word delimiter second, then characters in
    order.
    """
    characters = sorted(set("".join(texts)) - {" "})
    units = {unit: place for place, unit in enumerate([BLANK, DELIMITER, UNKNOWN, *characters])}
    path = folder / "vocab.json"
    path.write_text(json.dumps(units, ensure_ascii=False, sort_keys=True))
    return Wav2Vec2CTCTokenizer(
        str(path),
        pad_token=BLANK,
        word_delimiter_token=DELIMITER,
        unk_token=UNKNOWN,
        bos_token=None,
        eos_token=None,
    )


def subwords_for(texts: Sequence[str], units: int) -> ParakeetTokenizer:
    """Byte-pair encoding of ``units`` subwords over ``texts``, blank first; word beginnings are
    marked.
    """
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=units, special_tokens=[BLANK, UNKNOWN], show_progress=False),
    )
    return ParakeetTokenizer(tokenizer_object=bpe, pad_token=BLANK, unk_token=UNKNOWN)


def build(config: dict[str, Any], units: int, seed: int) -> ParakeetForCTC:
    """The model with random weights drawn from ``seed``; blank is unit 0."""
    torch.manual_seed(seed_of("encoder", seed))
    return ParakeetForCTC(
        ParakeetCTCConfig(
            vocab_size=units, pad_token_id=0, encoder_config=ParakeetEncoderConfig(**config)
        )
    )


def check(where: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for an architecture that does
    not work.
    """
    mels = 400
    heard = check_trained(
        where,
        "parakeet_encoder",
        config,
        lambda full: {"input_features": torch.zeros(1, mels, full.num_mel_bins)},
    )
    factor, frames = int(config.get("subsampling_factor", 8)), heard.last_hidden_state.shape[1]
    if frames != -(-mels // factor):
        raise InputError(
            f"{where}: source.config: a subsampling_factor of {factor} is none that halvings give.",
            subject="subsampling_factor",
            hint="Set it to 2, 4 or 8.",
        )


def train(ranks: Ranks, job: Job) -> None:
    """Trains as ``ranks`` says and, on the first rank, writes the finished folder to
    ``job.out``.
    """
    speech, silence = _short_enough(ranks, job)
    items = [*speech, *silence]
    scratch = Path(job.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    texts = [item.entry.text.lower() for item in speech]
    if job.training.units:
        tokenizer = subwords_for(texts, job.training.units)
    else:
        tokenizer = tokenizer_for(texts, scratch if ranks.rank == 0 else _own(scratch, ranks))
    extractor = ParakeetFeatureExtractor(feature_size=int(job.config.get("num_mel_bins", 80)))
    examples = _examples(ranks, items, extractor, tokenizer, scratch, job.training)
    model = build(job.config, len(tokenizer), job.training.seed).train()
    _check_lengths(model, examples[: len(speech) * views_of(job.training)])
    plan = _plan(items, len(speech), [example.seconds for example in examples], job.training)
    optimiser = build_adamw(model, job.training.learning_rate, job.training.weight_decay)
    loop = TrainingLoop(ranks, model, optimiser, _loop_settings(job, len(plan)))
    loop.run(CtcObjective(model, examples, plan, job.training))
    _statistics(model, examples, plan, job.training)
    if ranks.rank == 0:
        model.eval().save_pretrained(job.out)
        extractor.save_pretrained(job.out)
        tokenizer.save_pretrained(job.out)
    ranks.wait()


def _loop_settings(job: Job, num_steps: int) -> LoopSettings:
    return LoopSettings(
        stage="encoder",
        task="CTC training",
        num_steps=num_steps,
        warmup=job.training.warmup,
        decay="cosine",
        clip=job.training.clip,
        micro_batches=job.training.micro_batches,
        checkpoint_every=job.training.checkpoint_every,
        checkpoint=Path(job.scratch) / "checkpoint",
    )


def _short_enough(ranks: Ranks, job: Job) -> tuple[list[IndexedUtterance], list[IndexedUtterance]]:
    """Speech and non-speech of at most ``max_seconds``; raises InputError where no
    speech is left.
    """
    longest = job.training.max_seconds or math.inf
    found = entries(Path(job.shards))
    speech, left_out = split_by_length(found, longest)
    if not speech:
        raise InputError(
            f"encoder: none of {len(found)} utterances has at most {longest:g} s: none is left.",
            subject="encoder",
            hint="Raise source.training.max_seconds of its entry, or add a source.",
        )
    if left_out and ranks.rank == 0:
        print(f"encoder: {left_out} of {len(found)} utterances are over {longest:g} s and left out")
    return speech, split_by_length(entries(Path(job.nonspeech)), longest)[0]


def _own(scratch: Path, ranks: Ranks) -> Path:
    folder = scratch / f"rank-{ranks.rank}"
    folder.mkdir(exist_ok=True)
    return folder


def _heard(
    training: CtcTraining, clips: Sequence[ShardClip]
) -> Callable[[IndexedUtterance, int], np.ndarray]:
    """What the encoder hears of an utterance at a view: mono float32 at 16 kHz. ``clips`` are the
    noise that is added.

    Raises InputError where noise is to be added and there is none.
    """
    augment = training.augment
    if augment is None:
        return lambda item, view: audio(item)
    settings = Augment(
        training.seed,
        views_of(training),
        augment.speed,
        augment.level_db,
        augment.noise,
        Rooms(0.0),
        augment.band,
    )
    if augment.noise.probability and not clips:
        raise InputError(
            "source.training.augment.noise is on, but the role nonspeech-train holds no clip.",
            subject="augment.noise",
            hint="Give the role a source, or set the probability to 0.",
        )
    change = Augmentation(settings, clips)
    return lambda item, view: change(audio(item), item.entry.id, view)


def _examples(
    ranks: Ranks,
    items: list[IndexedUtterance],
    extractor: ParakeetFeatureExtractor,
    tokenizer: Any,
    scratch: Path,
    training: CtcTraining,
) -> list[Example]:
    """Log-mel of every view of every utterance, those of an utterance side by side: each rank
    computes its share, all ranks read it from one mapped file.
    """
    mels: list[np.ndarray] = []
    views, heard = (
        views_of(training),
        _heard(training, [ShardClip(item) for item in items if not item.entry.text]),
    )
    count = len(items) * views
    mine = ranks.own_items(range(count))
    with progress("encoder", "log-mel", len(mine), "utterances") as shown:
        for place in mine:
            batch = extractor(
                [heard(items[place // views], place % views)],
                sampling_rate=16_000,
                return_tensors="np",
            )
            mels.append(
                batch["input_features"][0][: int(batch["attention_mask"].sum())].astype(np.float16)
            )
            shown.advance()
    np.save(scratch / f"mel-{ranks.rank}.npy", np.concatenate(mels))
    np.save(scratch / f"lengths-{ranks.rank}.npy", np.array([len(mel) for mel in mels]))
    ranks.wait()
    found: dict[int, np.ndarray] = {}
    for rank in range(ranks.count):
        rows = np.load(scratch / f"mel-{rank}.npy", mmap_mode="c")
        ends = np.cumsum(np.load(scratch / f"lengths-{rank}.npy"))
        for place, start, end in zip(
            range(rank, count, ranks.count), [0, *ends[:-1]], ends, strict=True
        ):
            found[place] = rows[start:end]
    targets = [
        torch.tensor(tokenizer(item.entry.text.lower()).input_ids, dtype=torch.long)
        for item in items
    ]
    changed = training.augment is not None
    seconds = [
        len(found[place]) / MELS_A_SECOND if changed else items[place // views].entry.seconds
        for place in range(count)
    ]
    return [
        Example(torch.from_numpy(found[place]), targets[place // views], seconds[place])
        for place in range(count)
    ]


def _check_lengths(model: ParakeetForCTC, examples: Sequence[Example]) -> None:
    """Raises InputError where most targets have more units than frames: CTC has no path for them
    and learns nothing.
    """
    frames = model.encoder._get_subsampling_output_length(
        torch.tensor([len(example.mel) for example in examples])
    ).tolist()
    too_long = sum(
        most < frames_needed(example.target.tolist())
        for most, example in zip(frames, examples, strict=True)
    )
    if 2 * too_long > len(examples):
        raise InputError(
            f"{too_long} of {len(examples)} transcripts have more units than the encoder has "
            "frames.",
            subject="encoder",
            hint=(
                "Set source.training.units of its entry, or a lower "
                "source.config.subsampling_factor."
            ),
        )


def _plan(
    items: list[IndexedUtterance], speech: int, seconds: Sequence[float], training: CtcTraining
) -> list[list[int]]:
    """The batches of all epochs, as places among the examples, of so many ``seconds`` (speech
    first, then non-speech); an epoch hears a view of its own.
    """
    views = views_of(training)
    wanted = round(speech * training.nonspeech_share / (1 - training.nonspeech_share))
    plan = []
    for epoch in range(training.epochs):
        seed = seed_of("encoder-batches", training.seed, epoch)
        random = np.random.default_rng(seed)
        extra = list(range(speech, len(items)))
        extra = [extra[index] for index in random.permutation(len(extra))[:wanted]]
        groups = windows(items[:speech], training.seed, epoch, training.window_shards)
        for number, group in enumerate(groups):
            places = [
                place * views + epoch % views for place in (*group, *extra[number :: len(groups)])
            ]
            plan += batches(places, seconds, training.batch_seconds, seed_of(seed, number))
    return plan


def _inputs(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded log-mel, shape (batch, frames, mel), and its mask, shape (batch, frames)."""
    lengths = torch.tensor([len(example.mel) for example in examples])
    mel = torch.nn.utils.rnn.pad_sequence(
        [example.mel.float() for example in examples], batch_first=True
    )
    return mel, torch.arange(mel.shape[1])[None] < lengths[:, None]


def ctc_loss(model: ParakeetForCTC, examples: Sequence[Example]) -> torch.Tensor:
    """Sum over utterances of CTC loss / frames."""
    mel, mask = _inputs(examples)
    output = model.encoder(input_features=mel, attention_mask=mask)
    return loss_by_frames(
        model.ctc_head(output.last_hidden_state),
        output.attention_mask.sum(-1),
        [example.target for example in examples],
    )


@dataclass(frozen=True)
class CtcObjective(Objective[int]):
    """CTC loss of the planned batches; the items of a batch are indices of examples."""

    model: ParakeetForCTC
    examples: list[Example]
    plan: list[list[int]]
    training: CtcTraining
    figure_names = ("loss",)

    def batch(self, step: int) -> StepBatch[int]:
        return StepBatch(self.plan[step], len(self.plan[step]))

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        torch.manual_seed(seed_of("dropout", self.training.seed, step, micro_batch[0]))
        examples = [self._masked(index) for index in micro_batch]
        loss = ctc_loss(self.model, examples) / batch.num_utterances
        return MicroBatchLoss(loss, {"loss": loss.item()})

    def after_step(self, step: int, batch: StepBatch[int], result: StepResult) -> str:
        return f"loss {result.figures['loss']:.3f}"

    def _masked(self, index: int) -> Example:
        """An example with stretches of its log-mel set to zero where the training masks."""
        example, augment = self.examples[index], self.training.augment
        if augment is None:
            return example
        seed = seed_of("encoder-mask", self.training.seed, index)
        return replace(example, mel=mask_frames(example.mel, augment.masks, seed))


@torch.no_grad()
def _statistics(
    model: ParakeetForCTC,
    examples: list[Example],
    plan: list[list[int]],
    training: CtcTraining,
) -> None:
    """Batch-norm statistics taken anew over some batches with the final weights: the running ones
    lag, and each rank's come from its own batches. All ranks compute the same.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    torch.manual_seed(seed_of("dropout", training.seed, "statistics"))
    for batch in plan[:: max(1, len(plan) // training.statistics_batches)][
        : training.statistics_batches
    ]:
        mel, mask = _inputs([examples[place] for place in batch])
        model.encoder(input_features=mel, attention_mask=mask)
