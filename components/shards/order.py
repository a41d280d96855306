"""The order in which utterances are visited: shards permuted, then utterances within a window of
shards, then batches of similar lengths under a budget of seconds.

A pure function of the index, the seed and the epoch. So the position of a killed training is
computed and not replayed, and local and remote shards have the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from components.runtime.hashing import seed_of
from components.shards.reader import IndexedUtterance

Item = TypeVar("Item")


def split_by_length(
    utterances: Sequence[IndexedUtterance], max_duration_s: float
) -> tuple[list[IndexedUtterance], int]:
    """The utterances of at most ``max_duration_s`` seconds, and the number of longer ones."""
    short = [utterance for utterance in utterances if utterance.duration_s <= max_duration_s]
    return short, len(utterances) - len(short)


def draw_hours(
    utterances: Sequence[IndexedUtterance], hours: float, *seed: object
) -> list[IndexedUtterance]:
    """Utterances drawn at random, in their given order: at most ``hours`` of speech, and at least
    one utterance where there is any. The draw depends on the seed and the ids alone, not on the
    layout of the shards.
    """
    order = sorted(
        range(len(utterances)),
        key=lambda index: seed_of(*seed, utterances[index].source, utterances[index].id),
    )
    ends_s = np.cumsum([utterances[index].duration_s for index in order])
    num_drawn = max(1, int(np.searchsorted(ends_s, 3600 * hours, side="right")))
    return [utterances[index] for index in sorted(order[:num_drawn])]


def shuffle_in_windows(
    utterances: Sequence[IndexedUtterance], seed: int, epoch: int, num_shards: int
) -> list[list[int]]:
    """Indices of ``utterances``, shuffled within windows of ``num_shards`` shards; all windows
    together are a permutation.
    """
    random = np.random.default_rng(seed_of("order", seed, epoch))
    members: dict[tuple[str, str], list[int]] = {}
    for index, utterance in enumerate(utterances):
        members.setdefault((utterance.source, utterance.entry.shard), []).append(index)
    names = sorted(members)
    order = [names[index] for index in random.permutation(len(names))]
    groups = [order[start : start + num_shards] for start in range(0, len(order), num_shards)]
    return [
        [
            int(index)
            for index in random.permutation([index for name in group for index in members[name]])
        ]
        for group in groups
    ]


def form_batches(
    indices: Sequence[int],
    durations_s: Sequence[float],
    budget_s: float,
    seed: int,
    num_tokens: Sequence[int] = (),
    max_tokens: int = 0,
    padded: bool = True,
) -> list[list[int]]:
    """``indices`` in batches of similar lengths whose padded size is at most ``budget_s`` seconds,
    in shuffled order.

    ``durations_s[index]`` is the length of an utterance. If ``max_tokens`` is given, a batch has at
    most so many of ``num_tokens[index]`` too, padded to its longest (``padded``) or as their sum.
    An utterance longer than a budget is a batch of its own.
    """
    groups: list[list[int]] = []
    longest = total = 0
    for index in sorted(indices, key=lambda index: (durations_s[index], index)):
        count = num_tokens[index] if max_tokens else 0
        # In ascending order, so the new utterance is the longest and sets the padded length of
        # all. In tokens it need not be the longest.
        if groups and durations_s[index] * (len(groups[-1]) + 1) <= budget_s:
            longest, total = max(longest, count), total + count
            if (longest * (len(groups[-1]) + 1) if padded else total) <= max_tokens:
                groups[-1].append(index)
                continue
        groups.append([index])
        longest = total = count
    return [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]


def batch_by_length(
    items: Sequence[Item], durations_s: Sequence[float], budget_s: float
) -> list[list[Item]]:
    """All items in batches of at most ``budget_s`` seconds, the longest first: for work whose order
    does not matter.
    """
    groups = form_batches(range(len(items)), durations_s, budget_s, 0)
    return [
        [items[index] for index in group]
        for group in sorted(groups, key=lambda group: (-durations_s[group[-1]], group[0]))
    ]
