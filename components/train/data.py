"""What a step trains on: the batches of a curriculum stage, as places among speech and non-speech;
what is joined to long utterances; replaced input tokens.

A pure function of seed, stage and step: a resumed run computes where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from components.config.errors import InputError
from components.config.training import Concatenate, CurriculumStage, Train
from components.runtime.hashing import seed_of
from components.shards.order import form_batches, shuffle_in_windows
from components.shards.reader import IndexedUtterance

Place = tuple[int, ...]  # of an utterance among all; of a joined one, those of its parts
Example = tuple[IndexedUtterance, bool]  # an utterance, and whether it is speech
Tokens = Callable[
    [IndexedUtterance, bool, int], int
]  # (utterance, whether it is speech, epoch) → the LLM's tokens


def count_short(counts: Sequence[int], stride: float) -> int:
    """How many utterances have fewer frames than one token of the projector stands for.

    Raises InputError where most have: such an encoder and such a projector give the LLM next to
    nothing to read.
    """
    short = sum(count < stride for count in counts)
    if 2 * short > len(counts):
        says = (
            f"train: {short} of {len(counts)} utterances have fewer frames than the "
            f"{stride:g} of one token."
        )
        raise InputError(
            says,
            subject="projector",
            hint=("Name a projector with a lower stride, or an encoder with more frames a second."),
        )
    return short


@dataclass(frozen=True)
class Step:
    """The batch of a step: utterances by their places, several where they are joined."""

    epoch: int  # of the stage
    places: list[Place]


@dataclass(frozen=True)
class JoinedUtterances(IndexedUtterance):
    """Utterances put together to one: ``entry`` tells their text and length as a whole."""

    parts: tuple[IndexedUtterance, ...] = ()


def join_utterances(items: Sequence[IndexedUtterance]) -> IndexedUtterance:
    """One utterance of several, their frames and texts one after the other; a single
    one is itself.
    """
    if len(items) == 1:
        return items[0]
    first, entries = items[0], [item.entry for item in items]
    whole = replace(
        first.entry,
        id="+".join(each.id for each in entries),
        samples=sum(each.samples for each in entries),
        frames=sum(each.frames for each in entries),
        text=" ".join(each.text for each in entries),
        text_length=sum(each.text_length + 1 for each in entries) - 1,
    )
    return JoinedUtterances(whole, first.source, first.folder, tuple(items))


def parts_of(item: IndexedUtterance) -> tuple[IndexedUtterance, ...]:
    """The utterances whose frames make up ``item``."""
    return item.parts if isinstance(item, JoinedUtterances) else (item,)


def pieces_of(examples: Sequence[Example]) -> list[Example]:
    """The same, joined utterances taken apart."""
    return [(part, spoken) for item, spoken in examples for part in parts_of(item)]


def plan(
    speech: Sequence[IndexedUtterance],
    silence: Sequence[IndexedUtterance],
    settings: Train,
    stage: CurriculumStage,
    lengths: Callable[[int], Sequence[float]] | None = None,
    tokens: Tokens | None = None,
) -> list[Step]:
    """The batch of each step: places in ``[*speech, *silence]``.

    Epochs follow each other until the stage's steps are filled; in each, non-speech is spread
    evenly in its share. With a share of 1 there is no speech, and an epoch is all non-speech once.
    ``lengths`` gives the seconds of all places in an epoch, where they are not those of the
    recordings; ``tokens(item, spoken, epoch)`` counts the LLM's tokens of an utterance, for the
    budget in tokens.
    """
    items, alone = [*speech, *silence], stage.nonspeech_share == 1
    base, first = (silence, len(speech)) if alone else (speech, 0)
    wanted = (
        0 if alone else round(len(speech) * stage.nonspeech_share / (1 - stage.nonspeech_share))
    )
    recorded = [item.duration_s for item in items]
    steps: list[Step] = []
    epoch = 0
    while len(steps) < stage.steps:
        seed = seed_of("train-batches", settings.seed, stage.name, epoch)
        extra = _drawn(len(speech), len(silence), wanted, seed)
        groups = shuffle_in_windows(
            base, seed_of(settings.seed, stage.name), epoch, settings.window_shards
        )
        seconds = lengths(epoch) if lengths else recorded
        for number, group in enumerate(groups):
            chosen = [first + place for place in group]
            whole: list[Place] = [(each,) for each in chosen]
            if not alone:
                whole = concatenate_utterances(
                    chosen, seconds, settings.concatenate, seed_of("strung", seed, number)
                )
            whole += [(place,) for place in extra[number :: len(groups)]]
            counts = {}
            if tokens and settings.batch_tokens:
                counts = {
                    place: tokens(
                        join_utterances([items[each] for each in place]),
                        place[0] < len(speech),
                        epoch,
                    )
                    for place in whole
                }
            steps += [
                Step(epoch, places)
                for places in _batches(whole, seconds, settings, seed_of(seed, number), counts)
            ]
        epoch += 1
    return steps[: stage.steps]


def _batches(
    places: list[Place],
    seconds: Sequence[float],
    settings: Train,
    seed: int,
    counts: dict[Place, int],
) -> list[list[Place]]:
    """Places of utterances cut into batches under the budgets of seconds and, where ``counts`` are
    given, of tokens.
    """
    # By place, as ever: what lies at equal lengths side by side does so whether or not other
    # utterances are joined.
    known = sorted(set(places))
    whole = [sum(seconds[each] for each in place) for place in known]
    at = {place: number for number, place in enumerate(known)}
    cut = form_batches(
        [at[place] for place in places],
        whole,
        settings.batch_seconds,
        seed,
        [counts[place] for place in known if counts],
        settings.batch_tokens * bool(counts),
        not settings.packing,
    )
    return [[known[number] for number in batch] for batch in cut]


def concatenate_utterances(
    places: Sequence[int], lengths: Sequence[float], settings: Concatenate, seed: int
) -> list[Place]:
    """``places``, of ``lengths`` in seconds, a share of them joined at random to utterances of up
    to ``seconds`` (for long speech, after Yu et al. 2023, arXiv 2309.13963; joined are frames, not
    samples, so that they can be kept).

    The first places, in their random order, are the share. As many as fit are lined up, and of
    these from two to all are joined, so that all lengths up to the longest are heard.
    """
    count = round(settings.share * len(places))
    random = np.random.default_rng(seed)
    left, found = list(places[:count]), []
    while left:
        fits, seconds = 1, lengths[left[0]]
        while fits < len(left) and seconds + lengths[left[fits]] <= settings.seconds:
            seconds += lengths[left[fits]]
            fits += 1
        taken = int(random.integers(2, fits + 1)) if fits > 1 else 1
        found.append(tuple(left[:taken]))
        left = left[taken:]
    return [*found, *((place,) for place in places[count:])]


def _drawn(first: int, count: int, wanted: int, seed: int) -> list[int]:
    """``wanted`` places from ``first`` on among ``count``, each as often as any other but one."""
    random = np.random.default_rng(seed)
    rounds = -(-wanted // count) if count else 0
    return [first + int(place) for _ in range(rounds) for place in random.permutation(count)][
        :wanted
    ]


def corrupt_input_tokens(
    ids: Sequence[int], share: float, vocabulary: Sequence[int], seed: int
) -> list[int]:
    """The tokens of a transcript, each replaced with the probability ``share`` by another of
    ``vocabulary``.

    What the LLM then reads before a token is no safe guide to it, and it has to listen (Fathullah
    et al. 2023, arXiv 2307.11795, which leaves open by what tokens are replaced: a wrong word is
    what search may have written there).
    """
    if not share:
        return list(ids)
    random = np.random.default_rng(seed)
    hit, drawn = random.random(len(ids)) < share, random.integers(0, len(vocabulary), len(ids))
    return [
        int(vocabulary[other]) if replaced else token
        for token, replaced, other in zip(ids, hit, drawn, strict=True)
    ]
