"""Intervals of a word error rate: what they hold, what narrows them, and what they say is
resampled.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.intervals import blocks_of, interval, resampled, sums_by_block


def made(
    speakers: int, utterances: int = 8, seed: int = 0, spread: float = 0.08
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Errors, words and speakers; each speaker has a rate of its own around 0.2."""
    random = np.random.default_rng(seed)
    rates = np.clip(random.normal(0.2, spread, speakers), 0.01, 0.9)
    words = random.integers(5, 30, speakers * utterances)
    errors = random.binomial(words, np.repeat(rates, utterances))
    return (
        errors,
        words,
        [f"speaker-{number}" for number in range(speakers) for _ in range(utterances)],
    )


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 10), st.integers(0, 1000))
def test_an_interval_holds_the_rate(speakers: int, utterances: int, seed: int) -> None:
    errors, words, names = made(speakers, utterances, seed)
    found = interval(errors, words, names, 1000)
    assert found is not None
    assert 0 <= found.low <= errors.sum() / words.sum() <= found.high
    assert found.by == "speaker"


def test_more_speakers_make_it_narrower() -> None:
    """As one over the root of their number."""
    widths = []
    for speakers in (10, 40, 160):
        found = [interval(*made(speakers, seed=seed), 1000) for seed in range(10)]
        widths.append(np.mean([each.high - each.low for each in found if each]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_it_covers_the_true_rate_as_often_as_it_says() -> None:
    """Of sets drawn anew from the same population about 95 % have an interval around its rate."""
    held = 0
    for seed in range(200):
        found = interval(*made(40, 10, seed + 1), 400)
        held += bool(found and found.low <= 0.2 <= found.high)
    assert 0.89 <= held / 200 <= 0.99


def test_speakers_are_drawn_whole() -> None:
    """Speakers who differ much make the interval wider than single utterances would."""
    errors, words, names = made(12, 40, spread=0.15)
    whole, single = (
        interval(errors, words, names, 1000),
        interval(errors, words, [""] * len(names), 1000),
    )
    assert whole and single
    assert (whole.by, single.by) == ("speaker", "utterance")
    assert whole.high - whole.low > 2 * (single.high - single.low)


@pytest.mark.parametrize(
    ("speakers", "blocks", "by"),
    [
        (["a", "a", "a"], [0, 1, 2], "utterance"),  # one voice
        (["", "", ""], [0, 1, 2], "utterance"),
        (["a", "", "a"], [0, 1, 2], "utterance"),
        (["a", "b", "a"], [0, 1, 0], "speaker"),
        (["a", "", "b", "", "a"], [0, 1, 2, 3, 0], "speaker"),  # who is not known stands alone
    ],
)
def test_what_is_drawn_together(speakers: list[str], blocks: list[int], by: str) -> None:
    found, kind = blocks_of(speakers)
    assert (found.tolist(), kind) == (blocks, by)


def test_it_is_the_same_each_time_and_moves_little_with_the_seed() -> None:
    sample = made(40)
    assert interval(*sample, 1000) == interval(*sample, 1000)
    first, other = interval(*sample, 1000, seed=1), interval(*sample, 1000, seed=2)
    assert first and other
    assert first != other
    assert abs(first.low - other.low) < 0.15 * (first.high - first.low)


def test_without_resamples_or_words_there_is_none() -> None:
    errors, words, names = made(5)
    assert interval(errors, words, names, 0) is None
    assert interval(errors, np.zeros_like(words), names, 1000) is None
    with pytest.raises(ValueError, match="40 errors, 39 words"):
        interval(errors, words[1:], names, 1000)


def test_utterances_without_words_take_no_rate_away() -> None:
    """A resample that draws only those has no rate; the others keep theirs."""
    found = interval(np.array([1, 0]), np.array([4, 0]), ["a", "b"], 1000)
    assert found
    assert (found.low, found.high) == (0.25, 0.25)


def test_draws_are_with_replacement_and_of_the_same_number() -> None:
    """Sums of ones are the number drawn; the mean over resamples is that of the data; blocks of any
    size give the same draws.
    """
    values = np.arange(30.0)
    parts = np.concatenate(list(resampled(np.stack([np.ones(30), values]), 4000)), axis=-1)
    assert parts.shape == (2, 4000)
    assert set(parts[0]) == {30.0}
    assert parts[1].mean() / 30 == pytest.approx(values.mean(), rel=0.01)
    assert parts[1].std() / 30 == pytest.approx(values.std() / np.sqrt(30), rel=0.05)
    assert sums_by_block(np.array([1, 0, 1]), np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [
        [2, 4],
        [5, 10],
    ]


def test_few_draws_at_a_time_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = made(20)
    whole = interval(*sample, 500)
    monkeypatch.setattr("components.score.intervals.BLOCK", 90)
    assert interval(*sample, 500) == whole
