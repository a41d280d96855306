"""What an encoder is trained on with CTC: log-mel frames and units of every utterance, and the
batches of all epochs.

In: utterances of shards, a feature extractor and a tokenizer. Out: ``CtcExample`` for every
augmented view of every utterance, read from memory-mapped files. Cost: one pass over the audio for
each view; on disk 16 kB a second of audio at 80 mel bands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ParakeetFeatureExtractor

from components.audio.augmentation import Augmentation
from components.audio.sound import RATE
from components.config.augment import Augment, Rooms
from components.config.errors import InputError
from components.config.model_sources import CtcTraining
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of
from components.runtime.progress import progress
from components.shards.order import form_batches, shuffle_in_windows
from components.shards.reader import IndexedUtterance, ShardClip, read_audio

FRAMES_PER_SECOND = 100  # of the log-mel


@dataclass(frozen=True)
class CtcExample:
    """One view of an utterance."""

    mel: torch.Tensor  # normalised log-mel, shape (frames, mel bands), float16
    target: torch.Tensor  # units, shape (units,), int64
    duration_s: float


def num_views(training: CtcTraining) -> int:
    """Number of differently augmented views of an utterance: one an epoch, or the recording
    alone.
    """
    return training.epochs if training.augment else 1


def compute_examples(
    ranks: Ranks,
    utterances: list[IndexedUtterance],
    extractor: ParakeetFeatureExtractor,
    tokenizer: Any,
    scratch: Path,
    training: CtcTraining,
) -> list[CtcExample]:
    """Examples of all utterances, the views of an utterance one after the other.

    Each rank computes its share; all ranks read all of them from files in ``scratch``. Raises
    InputError where noise is to be added and there is none.
    """
    views = num_views(training)
    num_examples = len(utterances) * views
    _write_mel(ranks, utterances, extractor, scratch, training)
    ranks.barrier()
    mels = _read_mel(ranks.world_size, num_examples, scratch)
    targets = [
        torch.tensor(tokenizer(utterance.text.lower()).input_ids, dtype=torch.long)
        for utterance in utterances
    ]

    def duration_s(index: int) -> float:
        if training.augment is None:
            return utterances[index // views].duration_s
        return len(mels[index]) / FRAMES_PER_SECOND

    return [
        CtcExample(torch.from_numpy(mels[index]), targets[index // views], duration_s(index))
        for index in range(num_examples)
    ]


def _write_mel(
    ranks: Ranks,
    utterances: list[IndexedUtterance],
    extractor: ParakeetFeatureExtractor,
    scratch: Path,
    training: CtcTraining,
) -> None:
    """Writes the log-mel of this rank's share of all views: frames of all one after the other, and
    their lengths.
    """
    views = num_views(training)
    read_view = _view_reader(
        training, [ShardClip(utterance) for utterance in utterances if not utterance.text]
    )
    indices = ranks.own_items(range(len(utterances) * views))
    mels: list[np.ndarray] = []
    with progress("encoder", "log-mel", len(indices), "utterances") as display:
        for index in indices:
            waveform = read_view(utterances[index // views], index % views)
            features = extractor([waveform], sampling_rate=RATE, return_tensors="np")
            num_frames = int(features["attention_mask"].sum())
            mels.append(features["input_features"][0][:num_frames].astype(np.float16))
            display.advance()
    np.save(scratch / f"mel-{ranks.rank}.npy", np.concatenate(mels))
    np.save(scratch / f"lengths-{ranks.rank}.npy", np.array([len(mel) for mel in mels]))


def _read_mel(num_ranks: int, num_examples: int, scratch: Path) -> dict[int, np.ndarray]:
    """The log-mel that all ranks wrote, memory-mapped, by the index of the example."""
    mels: dict[int, np.ndarray] = {}
    for rank in range(num_ranks):
        frames = np.load(scratch / f"mel-{rank}.npy", mmap_mode="c")
        ends = np.cumsum(np.load(scratch / f"lengths-{rank}.npy"))
        indices = range(rank, num_examples, num_ranks)
        for index, start, end in zip(indices, [0, *ends[:-1]], ends, strict=True):
            mels[index] = frames[start:end]
    return mels


def _view_reader(
    training: CtcTraining, noise_clips: Sequence[ShardClip]
) -> Callable[[IndexedUtterance, int], np.ndarray]:
    """``(utterance, view) → waveform``, mono float32 at 16 kHz, shape (samples,); raises InputError
    where noise is to be added and there is none.
    """
    augment = training.augment
    if augment is None:
        return lambda utterance, view: read_audio(utterance)
    settings = Augment(
        training.seed,
        num_views(training),
        augment.speed,
        augment.level_db,
        augment.noise,
        Rooms(0.0),
        augment.band,
    )
    if augment.noise.probability and not noise_clips:
        raise InputError(
            "source.training.augment.noise is on, but the role nonspeech-train holds no clip.",
            subject="augment.noise",
            hint="Give the role a source, or set the probability to 0.",
        )
    augmentation = Augmentation(settings, noise_clips)
    return lambda utterance, view: augmentation(read_audio(utterance), utterance.id, view)


def plan_batches(
    utterances: list[IndexedUtterance],
    num_speech: int,
    durations_s: Sequence[float],
    training: CtcTraining,
) -> list[list[int]]:
    """The batches of all epochs, as indices of examples; each epoch has a view of its own.

    ``utterances`` are speech, ``num_speech`` of them, and then non-speech; ``durations_s`` are
    those of the examples.
    """
    views = num_views(training)
    share = training.nonspeech_share
    num_nonspeech = round(num_speech * share / (1 - share))
    plan = []
    for epoch in range(training.epochs):
        seed = seed_of("encoder-batches", training.seed, epoch)
        random = np.random.default_rng(seed)
        nonspeech = list(range(num_speech, len(utterances)))
        order = random.permutation(len(nonspeech))[:num_nonspeech]
        nonspeech = [nonspeech[index] for index in order]
        groups = shuffle_in_windows(
            utterances[:num_speech], training.seed, epoch, training.window_shards
        )
        for group_index, group in enumerate(groups):
            members = (*group, *nonspeech[group_index :: len(groups)])
            examples = [index * views + epoch % views for index in members]
            plan += form_batches(
                examples, durations_s, training.batch_seconds, seed_of(seed, group_index)
            )
    return plan


def pad_examples(examples: Sequence[CtcExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded log-mel, shape (batch, frames, mel bands), and its attention mask, shape (batch,
    frames).
    """
    lengths = torch.tensor([len(example.mel) for example in examples])
    mel = torch.nn.utils.rnn.pad_sequence(
        [example.mel.float() for example in examples], batch_first=True
    )
    return mel, torch.arange(mel.shape[1])[None] < lengths[:, None]
