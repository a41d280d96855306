"""The order of utterances: a shuffle that depends on seed and epoch only, and batches under a
budget.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from components.shards.index import IndexEntry
from components.shards.order import (
    batch_by_length,
    draw_hours,
    form_batches,
    shuffle_in_windows,
)
from components.shards.reader import IndexedUtterance

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=9)  # utterances of each shard
SECONDS = st.lists(st.floats(0.01, 40, allow_nan=False), max_size=40)
BUDGET = st.floats(0.5, 100)
any_time = settings(deadline=None)


def located(sizes: list[int], folder: str = "/data") -> list[IndexedUtterance]:
    """Utterances of shards of these sizes, the shards in two sources by turns."""
    items = []
    for shard, size in enumerate(sizes):
        source = f"source-{shard % 2}"
        name = f"{source}-{shard // 2:06d}.tar"
        entries = (
            IndexEntry(f"{shard}-{index}", name, 0, 0, 0, 0, 16_000, 0, 0, "", "")
            for index in range(size)
        )
        items += [IndexedUtterance(entry, source, Path(folder) / source) for entry in entries]
    return items


def flat(groups: list[list[int]]) -> list[int]:
    return [index for group in groups for index in group]


@any_time
@given(SIZES, st.integers(0, 2**40), st.integers(0, 99), st.integers(1, 10))
def test_windows_have_every_utterance_once_and_few_shards(
    sizes: list[int], seed: int, epoch: int, shards: int
) -> None:
    items = located(sizes)
    windows = shuffle_in_windows(items, seed, epoch, shards)
    assert sorted(flat(windows)) == list(range(len(items)))
    shard_names = [
        {(items[index].source, items[index].entry.shard) for index in window} for window in windows
    ]
    assert all(len(window) == shards for window in shard_names[:-1])
    assert 0 < len(shard_names[-1]) <= shards
    assert sum(map(len, shard_names)) == len(sizes), "a shard is in one window only"


@any_time
@given(SIZES, st.integers(0, 99), st.integers(0, 9), st.integers(1, 10))
def test_the_order_does_not_depend_on_the_folder_of_the_shards(
    sizes: list[int], seed: int, epoch: int, shards: int
) -> None:
    first = shuffle_in_windows(located(sizes), seed, epoch, shards)
    assert shuffle_in_windows(located(sizes), seed, epoch, shards) == first
    assert shuffle_in_windows(located(sizes, "bucket/elsewhere"), seed, epoch, shards) == first


def test_seed_and_epoch_change_the_order_of_shards_and_of_utterances() -> None:
    items = located([30] * 8)
    orders = [
        shuffle_in_windows(items, seed, epoch, 1)
        for seed, epoch in ((1, 0), (1, 1), (2, 0), (0, 1))
    ]
    assert len({tuple(flat(order)) for order in orders}) == 4
    assert len({tuple(items[window[0]].entry.shard for window in order) for order in orders}) == 4
    inside = {
        tuple(index for index in flat(order) if items[index].entry.shard == "source-0-000000.tar")
        for order in orders
    }
    assert len(inside) == 4


def test_a_wide_window_mixes_its_shards() -> None:
    items = located([50, 50])
    [window] = shuffle_in_windows(items, 1, 0, 2)
    first_half = {items[index].entry.shard for index in window[:50]}
    assert len(first_half) == 2


@any_time
@given(SECONDS, BUDGET, st.integers(0, 99), st.randoms(use_true_random=False))
def test_batches_have_every_index_once_within_the_budget(
    seconds: list[float], budget: float, seed: int, random
) -> None:
    indices = random.sample(range(len(seconds)), len(seconds))[: max(1, len(seconds) - 3)]
    batches = form_batches(indices, seconds, budget, seed)
    assert sorted(flat(batches)) == sorted(indices)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(seconds[index] for index in batch) <= budget
    assert form_batches(sorted(indices), seconds, budget, seed) == batches, (
        "the order of the indices does not matter"
    )


@any_time
@given(SECONDS, BUDGET, st.integers(0, 99))
def test_another_seed_only_changes_the_order_of_batches(
    seconds: list[float], budget: float, seed: int
) -> None:
    batches = form_batches(range(len(seconds)), seconds, budget, seed)
    other = form_batches(range(len(seconds)), seconds, budget, seed + 1)
    assert sorted(map(sorted, batches)) == sorted(map(sorted, other))


def test_batches_are_shuffled_and_of_similar_lengths() -> None:
    seconds = [1.0 + index % 10 for index in range(200)]
    batches = form_batches(range(200), seconds, 30.0, 1)
    longest = [max(seconds[index] for index in batch) for batch in batches]
    assert longest != sorted(longest)
    assert longest != [
        max(seconds[index] for index in batch)
        for batch in form_batches(range(200), seconds, 30.0, 2)
    ]
    padding = sum(len(batch) * max(seconds[index] for index in batch) for batch in batches) / sum(
        seconds
    )
    assert padding < 1.1


@any_time
@given(SECONDS, BUDGET)
def test_batch_by_length_returns_all_items_longest_first(
    seconds: list[float], budget: float
) -> None:
    items = [f"clip {index}" for index in range(len(seconds))]
    length = dict(zip(items, seconds))
    batches = batch_by_length(items, seconds, budget)
    assert sorted(item for batch in batches for item in batch) == sorted(items)
    longest = [max(length[item] for item in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(
        len(batch) == 1 or len(batch) * most <= budget for batch, most in zip(batches, longest)
    )


@any_time
@given(SIZES, st.integers(0, 20), st.integers(0, 2**40))
def test_drawn_hours_are_at_most_those_asked_for_in_the_given_order(
    sizes: list[int], seconds: int, seed: int
) -> None:
    items = located(sizes)  # of one second each
    drawn = draw_hours(items, (seconds + 0.5) / 3600, "test", seed)
    assert len(drawn) == min(len(items), max(1, seconds))
    assert drawn == [item for item in items if item in drawn]


@any_time
@given(SIZES, st.integers(0, 2**40), st.randoms())
def test_the_same_utterances_are_drawn_in_whatever_order_they_are_given(
    sizes: list[int], seed: int, random: Random
) -> None:
    items = located(sizes)
    shuffled = random.sample(items, len(items))
    assert {item.id for item in draw_hours(shuffled, 4 / 3600, seed)} == {
        item.id for item in draw_hours(items, 4 / 3600, seed)
    }


def test_another_seed_draws_other_utterances() -> None:
    items = located([6] * 9)
    assert draw_hours(items, 4 / 3600, 1) != draw_hours(items, 4 / 3600, 2)
