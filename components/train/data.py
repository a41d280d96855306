"""What a step trains on: the batches of a curriculum stage, as indices among speech and non-speech;
utterances that are concatenated; corrupted input tokens.

A pure function of seed, stage and step, so that a resumed run computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from components.config.errors import InputError
from components.config.training import Concatenate, CurriculumStage, Train
from components.runtime.hashing import seed_of
from components.shards.order import form_batches, shuffle_in_windows
from components.shards.reader import IndexedUtterance

Indices = tuple[int, ...]  # one utterance among all; several where they are concatenated
TrainingExample = tuple[IndexedUtterance, bool]  # an utterance, and whether it is speech
# (utterance, whether it is speech, epoch) → tokens of the LLM
CountTokens = Callable[[IndexedUtterance, bool, int], int]


def count_short_utterances(frame_counts: Sequence[int], stride: float) -> int:
    """How many utterances have fewer frames than one token of the projector covers.

    Raises InputError where most have: with such an encoder and such a projector the LLM reads next
    to nothing.
    """
    num_short = sum(count < stride for count in frame_counts)
    if 2 * num_short > len(frame_counts):
        raise InputError(
            f"train: {num_short} of {len(frame_counts)} utterances have fewer frames than the "
            f"{stride:g} of one token.",
            subject="projector",
            hint="Name a projector with a lower stride, or an encoder with more frames a second.",
        )
    return num_short


@dataclass(frozen=True)
class EpochDurations:
    """Seconds of all utterances in an epoch."""

    audio_s: Sequence[float]  # that are concatenated up to a length
    frames_s: Sequence[float]  # that batches are formed by: those of filled windows are more


@dataclass(frozen=True)
class PlannedStep:
    """The batch of a step."""

    epoch: int  # of the stage
    members: list[Indices]
    epochs_done: float  # passes over the utterances of the stage after this step


@dataclass(frozen=True)
class ConcatenatedUtterance(IndexedUtterance):
    """Several utterances as one; ``entry`` has their text and length together."""

    parts: tuple[IndexedUtterance, ...] = ()


def concatenate_utterances(utterances: Sequence[IndexedUtterance]) -> IndexedUtterance:
    """One utterance with the frames and texts of several, one after the other; a single one is
    returned as it is.
    """
    if len(utterances) == 1:
        return utterances[0]
    first, entries = utterances[0], [utterance.entry for utterance in utterances]
    entry = replace(
        first.entry,
        id="+".join(entry.id for entry in entries),
        samples=sum(entry.samples for entry in entries),
        frames=sum(entry.frames for entry in entries),
        text=" ".join(entry.text for entry in entries),
        text_length=sum(entry.text_length + 1 for entry in entries) - 1,
    )
    return ConcatenatedUtterance(entry, first.source, first.folder, tuple(utterances))


def recordings_of(utterance: IndexedUtterance) -> tuple[IndexedUtterance, ...]:
    """The utterances whose frames make up ``utterance``."""
    return utterance.parts if isinstance(utterance, ConcatenatedUtterance) else (utterance,)


def separate_recordings(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The examples with every concatenated utterance replaced by its recordings."""
    return [
        (recording, is_speech)
        for utterance, is_speech in examples
        for recording in recordings_of(utterance)
    ]


def plan_steps(
    speech: Sequence[IndexedUtterance],
    nonspeech: Sequence[IndexedUtterance],
    settings: Train,
    stage: CurriculumStage,
    epoch_durations: Callable[[int], EpochDurations] | None = None,
    count_tokens: CountTokens | None = None,
) -> list[PlannedStep]:
    """The batch of each step, as indices of ``[*speech, *nonspeech]``.

    Epochs follow each other until the stage has its length; in each, non-speech is spread evenly in
    its share. With a share of 1 there is no speech, and an epoch is all non-speech once. Of a part
    of an epoch the first batches are taken, at least one. ``epoch_durations(epoch)`` are those of
    ``[*speech, *nonspeech]``, by default the seconds of the recordings; ``count_tokens`` is for the
    budget in tokens.
    """
    utterances = [*speech, *nonspeech]
    share = stage.nonspeech_share
    has_speech = share < 1
    base, offset = (speech, 0) if has_speech else (nonspeech, len(speech))
    num_nonspeech = round(len(speech) * share / (1 - share)) if has_speech else 0
    recorded_s = [utterance.duration_s for utterance in utterances]
    recorded = EpochDurations(recorded_s, recorded_s)

    def batches_of(epoch: int) -> list[list[Indices]]:
        """All batches of an epoch, in their order."""
        batches: list[list[Indices]] = []
        seed = seed_of("train-batches", settings.seed, stage.name, epoch)
        extra = _draw_evenly(len(speech), len(nonspeech), num_nonspeech, seed)
        groups = shuffle_in_windows(
            base, seed_of(settings.seed, stage.name), epoch, settings.window_shards
        )
        durations = epoch_durations(epoch) if epoch_durations else recorded
        for group_index, group in enumerate(groups):
            indices = [offset + index for index in group]
            members: list[Indices] = [(index,) for index in indices]
            if has_speech:
                members = draw_concatenations(
                    indices,
                    durations.audio_s,
                    settings.concatenate,
                    seed_of("strung", seed, group_index),
                )
            members += [(index,) for index in extra[group_index :: len(groups)]]
            token_counts = {}
            if count_tokens and settings.batch_tokens:
                for member in members:
                    utterance = concatenate_utterances([utterances[index] for index in member])
                    is_speech = member[0] < len(speech)
                    token_counts[member] = count_tokens(utterance, is_speech, epoch)
            group_seed = seed_of(seed, group_index)
            batches += _batches(members, durations.frames_s, settings, group_seed, token_counts)
        return batches

    steps: list[PlannedStep] = []
    for epoch in itertools.count():
        batches = batches_of(epoch)
        steps += [
            PlannedStep(epoch, batch, epoch + (index + 1) / len(batches))
            for index, batch in enumerate(batches[: _count_steps(stage, epoch, len(batches))])
        ]
        if stage.epochs is not None and epoch + 1 >= stage.epochs:
            return steps
        if stage.steps is not None and len(steps) >= stage.steps:
            return steps[: stage.steps]
    raise AssertionError("an endless count has no end")


def _count_steps(stage: CurriculumStage, epoch: int, num_batches: int) -> int:
    """How many of the batches of an epoch a stage with a length in epochs trains on: all but in its
    last epoch, and at least one in the first.
    """
    share = min(1.0, stage.epochs - epoch) if stage.epochs is not None else 1.0
    return max(round(share * num_batches), int(epoch == 0))


def _batches(
    members: list[Indices],
    durations_s: Sequence[float],
    settings: Train,
    seed: int,
    token_counts: dict[Indices, int],
) -> list[list[Indices]]:
    """Splits ``members`` into batches under the budgets of seconds and, where ``token_counts`` are
    given, of tokens.
    """
    # Sorted by index, so that equal lengths have the same order with and without concatenation.
    unique = sorted(set(members))
    position = {member: index for index, member in enumerate(unique)}
    index_batches = form_batches(
        [position[member] for member in members],
        [sum(durations_s[index] for index in member) for member in unique],
        settings.batch_seconds,
        seed,
        [token_counts[member] for member in unique if token_counts],
        settings.batch_tokens * bool(token_counts),
        not settings.packing,
    )
    return [[unique[index] for index in batch] for batch in index_batches]


def draw_concatenations(
    indices: Sequence[int], durations_s: Sequence[float], settings: Concatenate, seed: int
) -> list[Indices]:
    """Groups of ``indices``, a share of them concatenated at random to utterances of up to
    ``settings.seconds`` (for long speech, after Yu et al. 2023, arXiv 2309.13963; here frames are
    concatenated, not samples, so that they can be cached).

    The first indices, in their random order, are the share. As many as fit are lined up, and from
    two to all of these are concatenated, so that all lengths up to the longest occur.
    """
    count = round(settings.share * len(indices))
    random = np.random.default_rng(seed)
    queue: list[int] = list(indices[:count])
    groups: list[Indices] = []
    while queue:
        num_fitting, total_s = 1, durations_s[queue[0]]
        while (
            num_fitting < len(queue)
            and total_s + durations_s[queue[num_fitting]] <= settings.seconds
        ):
            total_s += durations_s[queue[num_fitting]]
            num_fitting += 1
        size = int(random.integers(2, num_fitting + 1)) if num_fitting > 1 else 1
        groups.append(tuple(queue[:size]))
        queue = queue[size:]
    return [*groups, *((index,) for index in indices[count:])]


def _draw_evenly(offset: int, population: int, count: int, seed: int) -> list[int]:
    """``count`` indices among ``population`` from ``offset`` on, each drawn equally often or once
    more.
    """
    random = np.random.default_rng(seed)
    rounds = -(-count // population) if population else 0
    drawn = [offset + int(index) for _ in range(rounds) for index in random.permutation(population)]
    return drawn[:count]


def corrupt_input_tokens(
    ids: Sequence[int], share: float, vocabulary: Sequence[int], seed: int
) -> list[int]:
    """The tokens of a transcript, each replaced with the probability ``share`` by another of
    ``vocabulary``.

    What the LLM reads before a token then does not predict it reliably, and it has to use the
    speech (Fathullah et al. 2023, arXiv 2307.11795, which does not say by what tokens they are
    replaced: a wrong word is what search may have written there).
    """
    if not share:
        return list(ids)
    random = np.random.default_rng(seed)
    is_replaced = random.random(len(ids)) < share
    replacements = random.integers(0, len(vocabulary), len(ids))
    return [
        int(vocabulary[replacement]) if replaced else token
        for token, replaced, replacement in zip(ids, is_replaced, replacements, strict=True)
    ]
