"""Intervals of a word error rate: coverage, width, and the unit that is resampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.intervals import (
    assign_blocks,
    draw_resamples,
    error_rate_interval,
    sum_by_block,
)


def draw_set(
    speakers: int, utterances: int = 8, seed: int = 0, deviation: float = 0.08
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Errors, words and speakers; each speaker has a rate of its own around 0.2."""
    random = np.random.default_rng(seed)
    rates = np.clip(random.normal(0.2, deviation, speakers), 0.01, 0.9)
    words = random.integers(5, 30, speakers * utterances)
    errors = random.binomial(words, np.repeat(rates, utterances))
    return (
        errors,
        words,
        [f"speaker-{number}" for number in range(speakers) for _ in range(utterances)],
    )


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 10), st.integers(0, 1000))
def test_an_interval_contains_the_rate(speakers: int, utterances: int, seed: int) -> None:
    errors, words, names = draw_set(speakers, utterances, seed)
    interval = error_rate_interval(errors, words, names, 1000)
    assert interval is not None
    assert 0 <= interval.low <= errors.sum() / words.sum() <= interval.high
    assert interval.by == "speaker"


def test_more_speakers_give_a_narrower_interval() -> None:
    """As one over the root of their number."""
    widths = []
    for speakers in (10, 40, 160):
        intervals = [
            error_rate_interval(*draw_set(speakers, seed=seed), 1000) for seed in range(10)
        ]
        widths.append(np.mean([entry.high - entry.low for entry in intervals if entry]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_it_covers_the_true_rate_in_95_percent_of_sets() -> None:
    """Of sets drawn anew from the same population about 95 % have an interval around its rate."""
    num_covered = 0
    for seed in range(200):
        interval = error_rate_interval(*draw_set(40, 10, seed + 1), 400)
        num_covered += bool(interval and interval.low <= 0.2 <= interval.high)
    assert 0.89 <= num_covered / 200 <= 0.99


def test_all_utterances_of_a_speaker_are_drawn_together() -> None:
    """Speakers who differ much make the interval wider than by_utterance utterances would."""
    errors, words, names = draw_set(12, 40, deviation=0.15)
    by_speaker, by_utterance = (
        error_rate_interval(errors, words, names, 1000),
        error_rate_interval(errors, words, [""] * len(names), 1000),
    )
    assert by_speaker and by_utterance
    assert (by_speaker.by, by_utterance.by) == ("speaker", "utterance")
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


@pytest.mark.parametrize(
    ("speakers", "blocks", "by"),
    [
        (["a", "a", "a"], [0, 1, 2], "utterance"),  # one voice
        (["", "", ""], [0, 1, 2], "utterance"),
        (["a", "", "a"], [0, 1, 2], "utterance"),
        (["a", "b", "a"], [0, 1, 0], "speaker"),
        (
            ["a", "", "b", "", "a"],
            [0, 1, 2, 3, 0],
            "speaker",
        ),  # without a speaker: a block of its own
    ],
)
def test_blocks_are_speakers_or_utterances(speakers: list[str], blocks: list[int], by: str) -> None:
    interval, kind = assign_blocks(speakers)
    assert (interval.tolist(), kind) == (blocks, by)


def test_it_repeats_and_depends_little_on_the_seed() -> None:
    sample = draw_set(40)
    assert error_rate_interval(*sample, 1000) == error_rate_interval(*sample, 1000)
    first, other = (
        error_rate_interval(*sample, 1000, seed=1),
        error_rate_interval(*sample, 1000, seed=2),
    )
    assert first and other
    assert first != other
    assert abs(first.low - other.low) < 0.15 * (first.high - first.low)


def test_without_resamples_or_words_there_is_no_interval() -> None:
    errors, words, names = draw_set(5)
    assert error_rate_interval(errors, words, names, 0) is None
    assert error_rate_interval(errors, np.zeros_like(words), names, 1000) is None
    with pytest.raises(ValueError, match=r"40.*39"):
        error_rate_interval(errors, words[1:], names, 1000)


def test_utterances_without_words_take_no_rate_away() -> None:
    """A resample that draws only those has no rate; the others keep theirs."""
    interval = error_rate_interval(np.array([1, 0]), np.array([4, 0]), ["a", "b"], 1000)
    assert interval
    assert (interval.low, interval.high) == (0.25, 0.25)


def test_draws_are_with_replacement_and_of_the_same_number() -> None:
    """Sums of ones are the number drawn; the mean over resamples is that of the data; blocks of any
    size give the same draws.
    """
    values = np.arange(30.0)
    parts = np.concatenate(list(draw_resamples(np.stack([np.ones(30), values]), 4000)), axis=-1)
    assert parts.shape == (2, 4000)
    assert set(parts[0]) == {30.0}
    assert parts[1].mean() / 30 == pytest.approx(values.mean(), rel=0.01)
    assert parts[1].std() / 30 == pytest.approx(values.std() / np.sqrt(30), rel=0.05)
    assert sum_by_block(np.array([1, 0, 1]), np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [
        [2, 4],
        [5, 10],
    ]


def test_few_draws_at_a_time_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = draw_set(20)
    by_speaker = error_rate_interval(*sample, 500)
    monkeypatch.setattr("components.score.intervals.MAX_DRAWS", 90)
    assert error_rate_interval(*sample, 500) == by_speaker
