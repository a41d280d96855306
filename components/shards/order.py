"""Which utterances are visited, and in which order: shards permuted, then utterances within a
window of shards, then batches of like lengths under a budget of seconds.

A pure function of the index, the seed and the epoch: where a killed training stood is computed,
never replayed, and the same order holds for local and remote shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from components.runtime.hashing import seed_of
from components.shards.reader import IndexedUtterance

Item = TypeVar("Item")


def split_by_length(
    items: Sequence[IndexedUtterance], longest: float
) -> tuple[list[IndexedUtterance], int]:
    """The utterances of at most ``longest`` seconds, and how many are left out."""
    kept = [item for item in items if item.entry.seconds <= longest]
    return kept, len(items) - len(kept)


def windows(
    items: Sequence[IndexedUtterance], seed: int, epoch: int, shards: int
) -> list[list[int]]:
    """Places in ``items``, shuffled within windows of ``shards`` shards; all places together are a
    permutation.
    """
    random = np.random.default_rng(seed_of("order", seed, epoch))
    members: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        members.setdefault((item.source, item.entry.shard), []).append(place)
    names = sorted(members)
    order = [names[index] for index in random.permutation(len(names))]
    groups = [order[start : start + shards] for start in range(0, len(order), shards)]
    return [
        [
            int(place)
            for place in random.permutation([place for name in group for place in members[name]])
        ]
        for group in groups
    ]


def batches(
    places: Sequence[int],
    seconds: Sequence[float],
    budget: float,
    seed: int,
    tokens: Sequence[int] = (),
    most: int = 0,
    padded: bool = True,
) -> list[list[int]]:
    """``places`` cut into batches of like lengths whose padded size stays within ``budget``
    seconds, in shuffled order.

    ``seconds[place]`` is an utterance's length. Where ``most`` is given, a batch holds no more of
    ``tokens[place]`` either, filled up to its longest (``padded``) or as they are. One longer than
    a budget makes a batch of its own.
    """
    cut: list[list[int]] = []
    longest = total = 0
    for place in sorted(places, key=lambda place: (seconds[place], place)):
        count = tokens[place] if most else 0
        # Sorted upwards, so the newcomer is the longest: it sets the padded length of all. In
        # tokens it need not be.
        if cut and seconds[place] * (len(cut[-1]) + 1) <= budget:
            longest, total = max(longest, count), total + count
            if (longest * (len(cut[-1]) + 1) if padded else total) <= most:
                cut[-1].append(place)
                continue
        cut.append([place])
        longest = total = count
    return [cut[index] for index in np.random.default_rng(seed).permutation(len(cut))]


def by_length(items: Sequence[Item], seconds: Sequence[float], budget: float) -> list[list[Item]]:
    """All items in batches under ``budget`` seconds, longest first: for work whose order does not
    matter.
    """
    cut = batches(range(len(items)), seconds, budget, 0)
    return [
        [items[place] for place in batch]
        for batch in sorted(cut, key=lambda batch: (-seconds[batch[-1]], batch[0]))
    ]
