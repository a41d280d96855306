"""Centroids of discrete units, fitted on a sample of the training speech.

In: frames of the role train, cached or live; of augmented ones the first view. Out:
``centroids.safetensors``, the same bits of the same frames, whatever the number of workers: the
sample depends on the ids of the utterances, they are read in the order of their ids, and one
process with one thread computes. Cost: all frames of the sample in memory (10 h of 768 values at 50
Hz: 5.5 GB) and ``iterations`` passes over them, which are 2.8e12 multiplications in fp64 each for
1,000 units: seconds on a GPU for data centres, minutes on a processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from components.config.errors import InputError
from components.config.projector import DiscreteUnits
from components.features.frames import FrameSource
from components.model.bridges.discrete import CENTROIDS
from components.runtime.hashing import seed_of
from components.runtime.progress import progress
from components.shards.order import draw_hours
from components.shards.reader import IndexedUtterance
from components.units.kmeans import fit_centroids

THREADS = 1  # sums in another number of threads are rounded differently
VIEW = 0  # of augmented frames: those of the first epoch
# Utterances whose frames are read, or computed by the encoder, at a time: their memory stays small,
# and the encoder's batches are the same for any layout of shards.
READ_UTTERANCES = 64


def fit_units(folder: Path, data: Path, encoder: Path, device: str, entry: DiscreteUnits) -> None:
    """Writes the centroids of ``entry`` to ``folder``; raises InputError where the speech has fewer
    frames than there are units.
    """
    torch.set_num_threads(THREADS)
    source = FrameSource("train", encoder, device, data)
    sample = choose_utterances(source.utterances, entry.hours, entry.seed)
    num_frames = sum(source.num_frames(utterance, VIEW) for utterance in sample)
    if num_frames < entry.units:
        raise InputError(
            f"units: the training speech has {num_frames} frames, fewer than the {entry.units} "
            "units that are to be fitted.",
            subject="projector",
            hint="Name a projector of fewer units, or a corpus with more speech.",
        )
    frames = read_sample(source, sample, num_frames)  # (frames, encoder width)
    with progress("units", "k-means", entry.iterations, "passes") as bar:
        centroids = fit_centroids(
            frames, entry.units, entry.iterations, seed_of("k-means", entry.seed), bar.advance
        )
    save_file({CENTROIDS.stem: centroids.cpu()}, folder / CENTROIDS)


def choose_utterances(
    utterances: Sequence[IndexedUtterance], hours: float, seed: int
) -> list[IndexedUtterance]:
    """At most so many hours of the utterances, drawn by their ids and sorted by them."""
    drawn = draw_hours(utterances, hours, "units", seed)
    return sorted(drawn, key=lambda utterance: (utterance.source, utterance.id))


def read_sample(
    source: FrameSource, sample: Sequence[IndexedUtterance], num_frames: int
) -> torch.Tensor:
    """The frames of all utterances one after the other, (``num_frames``, encoder width), in
    fp32.
    """
    frames = torch.empty(0)
    num_read = 0
    with progress("units", "frames", len(sample), "utterances") as bar:
        for start in range(0, len(sample), READ_UTTERANCES):
            group = sample[start : start + READ_UTTERANCES]
            part = torch.cat(source.frames(group, VIEW))  # (frames of the group, width)
            if not num_read:
                frames = part.new_empty(num_frames, part.shape[1])
            frames[num_read : num_read + len(part)] = part
            num_read += len(part)
            bar.advance(len(group))
    return frames
