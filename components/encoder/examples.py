"""What an encoder is trained on with CTC: log-mel frames and units of every utterance, and the
batches of all epochs.

In: utterances of shards, a feature extractor and a tokenizer. Out: ``CtcExample`` for every
augmented view of every utterance, read from memory-mapped files when it is asked for. Cost: one
pass over the audio for each view, in threads; on disk 16 kB a second of audio at 80 mel bands,
about as much as FLAC; in memory a block of utterances, and some bytes for each view.
"""

from __future__ import annotations

import logging
import os
import shutil
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from transformers import ParakeetFeatureExtractor

from components.audio.augmentation import Augmentation
from components.audio.sound import RATE
from components.config.augment import Augment, Rooms
from components.config.errors import InputError
from components.config.model_sources import CtcTraining
from components.optim.ranks import Ranks
from components.runtime.durability import DIGESTS, find_fault, sync_tree, write_digests
from components.runtime.hashing import seed_of
from components.runtime.progress import progress
from components.shards.order import form_batches, shuffle_in_windows
from components.shards.reader import IndexedUtterance, ShardClip, read_audio

logger = logging.getLogger(__name__)
FRAMES_PER_SECOND = 100  # of the log-mel
MEL, UNITS, LENGTHS = "mel.f16", "units.i32", "lengths.npy"  # files of a rank's examples
BLOCK_SIZE = 256  # utterances in memory at once: 160 MB of audio and log-mel at 20 s each


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


class CtcExamples(Sequence[CtcExample]):
    """The examples that all ranks wrote to ``scratch``, the views of an utterance one after the
    other; ``durations_s`` are those of the audio where it is not augmented.
    """

    def __init__(
        self, scratch: Path, num_ranks: int, num_bands: int, durations_s: Sequence[float] | None
    ) -> None:
        self._parts = [
            _ExamplePart(_part_path(scratch, rank, num_ranks), num_bands)
            for rank in range(num_ranks)
        ]
        self._durations_s = durations_s

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    @overload
    def __getitem__(self, index: int) -> CtcExample: ...

    @overload
    def __getitem__(self, index: slice) -> list[CtcExample]: ...

    def __getitem__(self, index: int | slice) -> CtcExample | list[CtcExample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        position, rank = divmod(index, len(self._parts))
        mel, target = self._parts[rank].read(position)
        return CtcExample(mel, target, self.duration_s(index))

    def num_mel_frames(self, index: int) -> int:
        """Frames of the log-mel of an example."""
        position, rank = divmod(index, len(self._parts))
        return self._parts[rank].num_mel_frames(position)

    def target(self, index: int) -> torch.Tensor:
        """Units of an example, shape (units,), int64."""
        position, rank = divmod(index, len(self._parts))
        return self._parts[rank].target(position)

    def duration_s(self, index: int) -> float:
        """Seconds of an example."""
        if self._durations_s is not None:
            return self._durations_s[index]
        return self.num_mel_frames(index) / FRAMES_PER_SECOND


class _ExamplePart:
    """The examples that one rank wrote: frames of all one after the other, units likewise."""

    def __init__(self, path: Path, num_bands: int) -> None:
        lengths = np.load(path / LENGTHS)  # (examples, 2): of frames and of units
        ends = np.cumsum(lengths, axis=0)
        self._starts, self._ends = ends - lengths, ends
        # Read-only: the kernel counts a writable private map as memory, and refuses one that is
        # larger than that.
        frames = np.memmap(path / MEL, np.float16, "r") if ends[-1:, 0].any() else np.zeros(0)
        self._frames = frames.reshape(-1, num_bands)
        self._units = np.fromfile(path / UNITS, np.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def num_mel_frames(self, position: int) -> int:
        return int(self._ends[position, 0] - self._starts[position, 0])

    def target(self, position: int) -> torch.Tensor:
        units = self._units[self._starts[position, 1] : self._ends[position, 1]]
        return torch.from_numpy(units.astype(np.int64))

    def read(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames = self._frames[self._starts[position, 0] : self._ends[position, 0]]
        return torch.from_numpy(frames.astype(np.float16)), self.target(position)


def compute_examples(
    ranks: Ranks,
    utterances: list[IndexedUtterance],
    extractor: ParakeetFeatureExtractor,
    tokenizer: Any,
    scratch: Path,
    training: CtcTraining,
) -> CtcExamples:
    """Examples of all utterances, the views of an utterance one after the other.

    Each rank computes its share, unless a run that was killed has computed it; all ranks read all
    of them from files in ``scratch``. Raises InputError where noise is to be added and there is
    none.
    """
    if ranks.rank == 0:
        for path in scratch.glob("examples-*"):
            if not path.name.endswith(f"-of-{ranks.world_size}"):  # of another number of ranks
                shutil.rmtree(path)
    path = _part_path(scratch, ranks.rank, ranks.world_size)
    fault = find_fault(path)
    if fault and (path / DIGESTS).is_file():  # without them a run was killed while it wrote
        logger.warning("encoder: %s is computed again: damaged: %s", path, fault)
    if fault:
        path.mkdir(exist_ok=True)
        (path / DIGESTS).unlink(missing_ok=True)
        _write_part(ranks, utterances, extractor, tokenizer, path, training)
    ranks.barrier()
    durations_s = None
    if training.augment is None:
        durations_s = [utterance.duration_s for utterance in utterances]
    return CtcExamples(scratch, ranks.world_size, int(extractor.feature_size), durations_s)


def _part_path(scratch: Path, rank: int, num_ranks: int) -> Path:
    return scratch / f"examples-{rank}-of-{num_ranks}"


def _write_part(
    ranks: Ranks,
    utterances: list[IndexedUtterance],
    extractor: ParakeetFeatureExtractor,
    tokenizer: Any,
    path: Path,
    training: CtcTraining,
) -> None:
    """Writes this rank's share of all views to the folder ``path``, the lengths last."""
    views = num_views(training)
    read_view = _view_reader(
        training, [ShardClip(utterance) for utterance in utterances if not utterance.text]
    )

    def compute_mel(index: int) -> np.ndarray:
        waveform = read_view(utterances[index // views], index % views)
        features = extractor([waveform], sampling_rate=RATE, return_tensors="np")
        num_frames = int(features["attention_mask"].sum())
        mel: np.ndarray = features["input_features"][0][:num_frames].astype(np.float16)
        return mel

    indices = ranks.own_items(range(len(utterances) * views))
    lengths: list[tuple[int, int]] = []
    num_threads = max(1, (os.cpu_count() or 1) // ranks.world_size)
    display = progress("encoder", "log-mel", len(indices), "utterances")
    with (
        (path / MEL).open("wb") as mel_file,
        (path / UNITS).open("wb") as unit_file,
        ThreadPoolExecutor(num_threads) as pool,
        display as bar,
    ):
        for start in range(0, len(indices), BLOCK_SIZE):
            block = indices[start : start + BLOCK_SIZE]
            for index, mel in zip(block, pool.map(compute_mel, block), strict=True):
                units = tokenizer(utterances[index // views].text.lower()).input_ids
                mel_file.write(mel.tobytes())
                unit_file.write(np.array(units, np.int32).tobytes())
                lengths.append((len(mel), len(units)))
                bar.advance()
    np.save(path / LENGTHS, np.array(lengths, np.int64).reshape(-1, 2))
    write_digests(path, (MEL, UNITS, LENGTHS))
    sync_tree(path)


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
) -> list[array[int]]:
    """The batches of all epochs, as indices of examples (in arrays, since a long training has
    hundreds of millions of them); each epoch has a view of its own.

    ``utterances`` are speech, ``num_speech`` of them, and then non-speech; ``durations_s`` are
    those of the examples.
    """
    views = num_views(training)
    share = training.nonspeech_share
    num_nonspeech = round(num_speech * share / (1 - share))
    plan: list[array[int]] = []
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
            batches = form_batches(
                examples, durations_s, training.batch_seconds, seed_of(seed, group_index)
            )
            plan += [array("i", batch) for batch in batches]
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
