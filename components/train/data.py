"""What a step trains on: the batches of a curriculum stage, as places among speech and non-speech, and SpecAugment.

A pure function of seed, stage and step: a resumed run computes where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.config.errors import InputError
from components.config.hashing import seed_of
from components.config.params import CurriculumStage, SpecAugment, Train
from components.shards.order import batches, windows
from components.shards.reader import Located


def shorter(counts: Sequence[int], stride: float) -> int:
    """How many utterances have fewer frames than one token of the projector stands for.

    Raises InputError where most have: such an encoder and such a projector give the LLM next to nothing to read.
    """
    short = sum(count < stride for count in counts)
    if 2 * short > len(counts):
        says = f"train: {short} of {len(counts)} utterances have fewer frames than the {stride:g} of one token."
        raise InputError(says, unit="projector", way_out="Name a projector with a lower stride, or an encoder with more frames a second.")
    return short


@dataclass(frozen=True)
class Step:
    """The batch of a step."""

    epoch: int  # of the stage
    places: list[int]


def plan(speech: Sequence[Located], silence: Sequence[Located], settings: Train, stage: CurriculumStage,
         lengths: Callable[[int], Sequence[float]] | None = None) -> list[Step]:  # fmt: skip
    """The batch of each step: places in ``[*speech, *silence]``.

    Epochs follow each other until the stage's steps are filled; in each, non-speech is spread evenly in its share. ``lengths``
    gives the seconds of all places in an epoch, where they are not those of the recordings.
    """
    recorded = [item.entry.seconds for item in (*speech, *silence)]
    wanted = round(len(speech) * stage.nonspeech_share / (1 - stage.nonspeech_share))
    steps: list[Step] = []
    epoch = 0
    while len(steps) < stage.steps:
        seed = seed_of("train-batches", settings.seed, stage.name, epoch)
        extra = _drawn(len(speech), len(silence), wanted, seed)
        groups = windows(speech, seed_of(settings.seed, stage.name), epoch, settings.window_shards)
        seconds = lengths(epoch) if lengths else recorded
        for number, group in enumerate(groups):
            cut = batches([*group, *extra[number :: len(groups)]], seconds, settings.batch_seconds, seed_of(seed, number))
            steps += [Step(epoch, places) for places in cut]
        epoch += 1
    return steps[: stage.steps]


def _drawn(first: int, count: int, wanted: int, seed: int) -> list[int]:
    """``wanted`` places from ``first`` on among ``count``, each as often as any other but one."""
    random = np.random.default_rng(seed)
    rounds = -(-wanted // count) if count else 0
    return [first + int(place) for _ in range(rounds) for place in random.permutation(count)][:wanted]


def masked(frames: torch.Tensor, settings: SpecAugment, seed: int) -> torch.Tensor:
    """Frames with stretches of time and of width set to zero (SpecAugment, Park et al. 2019, on the encoder's frames)."""
    if not settings.enabled:
        return frames
    random = np.random.default_rng(seed)
    frames = frames.clone()
    length, width = frames.shape
    for _ in range(settings.time_masks):
        span = int(random.integers(0, min(settings.time_frames, length // 2) + 1))
        start = int(random.integers(0, length - span + 1))
        frames[start : start + span] = 0
    for _ in range(settings.width_masks):
        span = int(random.integers(0, int(settings.width_share * width) + 1))
        start = int(random.integers(0, width - span + 1))
        frames[:, start : start + span] = 0
    return frames
