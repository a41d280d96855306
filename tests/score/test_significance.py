"""Tests between two systems, against plain implementations of their formulas and on random data."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.intervals import SEED
from components.score.significance import MAX_EXACT, compare, matched_pairs


def draw_systems(
    utterances: int, better: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Errors of two systems at rates 0.2 and 0.2 - ``better``, words, and ten speakers."""
    draw = np.random.default_rng(seed)
    words = draw.integers(5, 30, utterances)
    first, second = draw.binomial(words, 0.2), draw.binomial(words, 0.2 - better)
    return first, second, words, [f"speaker-{number % 10}" for number in range(utterances)]


def plain_bootstrap(
    first: list[int], second: list[int], words: list[int], speakers: list[str], resamples: int
) -> dict[str, float]:
    """Resample by resample, speaker by speaker, as the paper says; the draws alone are numpy's."""
    names = list(dict.fromkeys(speakers))
    draw, differences = np.random.default_rng(SEED), []
    for _ in range(resamples):
        wrong_first = wrong_second = total = 0
        for number in draw.integers(len(names), size=len(names)):
            for one, other, count, speaker in zip(first, second, words, speakers, strict=True):
                if speaker == names[number]:
                    wrong_first, wrong_second, total = (
                        wrong_first + one,
                        wrong_second + other,
                        total + count,
                    )
        differences.append(wrong_second / total - wrong_first / total)
    differences.sort()
    lower = sum(difference <= 1e-12 for difference in differences)
    upper = sum(difference >= -1e-12 for difference in differences)

    def point(share: float) -> float:
        position = share * (len(differences) - 1)
        low = math.floor(position)
        high = min(low + 1, len(differences) - 1)
        return differences[low] + (position - low) * (differences[high] - differences[low])

    return {
        "difference": sum(second) / sum(words) - sum(first) / sum(words),
        "low": point(0.025),
        "high": point(0.975),
        "better": (
            sum(difference < -1e-12 for difference in differences)
            + sum(abs(difference) <= 1e-12 for difference in differences) / 2
        )
        / len(differences),
        "bootstrap_p": min(1.0, 2 * (min(lower, upper) + 1) / (resamples + 1)),
    }


@pytest.mark.parametrize("better", [0.0, 0.02, 0.1])
def test_the_paired_bootstrap_is_that_of_its_formula(better: float) -> None:
    first, second, words, speakers = draw_systems(60, better, seed=3)
    result = compare(first, second, words, speakers, 300)
    expected = plain_bootstrap(first.tolist(), second.tolist(), words.tolist(), speakers, 300)
    assert {key: getattr(result, key) for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_matched_pairs_of_many_utterances_are_those_of_its_formula(seed: int) -> None:
    """W = mean / (deviation / root of n), the deviation over n - 1, and both tails of the normal
    curve, by adding its density up.
    """
    first, second, _, _ = draw_systems(400, 0.01, seed)
    differences = (second - first).tolist()
    assert sum(difference != 0 for difference in differences) > MAX_EXACT
    mean = sum(differences) / len(differences)
    variance = sum((difference - mean) ** 2 for difference in differences) / (len(differences) - 1)
    size = abs(mean) / math.sqrt(variance / len(differences))
    width = 0.0005
    area = sum(
        math.exp(-((size + (step + 0.5) * width) ** 2) / 2) * width for step in range(40_000)
    ) / math.sqrt(2 * math.pi)
    assert matched_pairs(first, second) == pytest.approx(2 * area, rel=1e-4, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), max_size=11))
def test_matched_pairs_of_few_utterances_count_every_flip_of_signs(differences: list[int]) -> None:
    flips = [
        abs(sum(sign * size for sign, size in zip(signs, differences)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    share = sum(flip >= abs(sum(differences)) for flip in flips) / len(flips)
    p_value = matched_pairs(
        np.array([5] * len(differences), dtype=int),
        np.array([5 + difference for difference in differences], dtype=int),
    )
    assert p_value == pytest.approx(share)


def test_the_exact_and_the_normal_test_agree() -> None:
    """At the number of utterances where the normal distribution replaces the exact test."""
    draw = random.Random(1)
    for _ in range(20):
        differences = np.array([draw.choice([-2, -1, -1, 1, 1, 2, 2]) for _ in range(MAX_EXACT)])
        more = np.concatenate([differences, [1, -1]])
        exact, normal = (
            matched_pairs(np.zeros(len(values)), values) for values in (differences, more)
        )
        assert exact == pytest.approx(normal, abs=0.1)
        assert exact > 0.1 or exact == pytest.approx(normal, abs=0.03)


def test_swapping_the_systems_changes_the_sign() -> None:
    first, second, words, speakers = draw_systems(200, 0.03)
    forward, backward = (
        compare(first, second, words, speakers, 500),
        compare(second, first, words, speakers, 500),
    )
    assert forward.difference == -backward.difference
    assert forward.better == pytest.approx(1 - backward.better)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert (forward.matched_p, forward.bootstrap_p) == (backward.matched_p, backward.bootstrap_p)


def test_a_system_does_not_differ_from_itself() -> None:
    first, _, words, speakers = draw_systems(100, 0)
    result = compare(first, first, words, speakers, 500)
    assert (result.difference, result.low, result.high, result.better) == (0, 0, 0, 0.5)
    assert (result.matched_p, result.bootstrap_p, result.is_significant) == (1, 1, False)


def test_a_much_better_system_is_significant_and_an_equal_one_rarely() -> None:
    result = compare(*draw_systems(300, 0.08), 1000)
    assert result.difference < result.high < 0
    assert result.better == 1
    assert result.is_significant
    assert 0 < result.bootstrap_p < 0.01
    by_chance = [compare(*draw_systems(120, 0, seed), 200) for seed in range(200)]
    assert sum(result.is_significant for result in by_chance) / 200 < 0.1
    assert sum(result.low <= 0 <= result.high for result in by_chance) / 200 > 0.85


def test_without_resamples_there_are_only_matched_pairs() -> None:
    first, second, words, speakers = draw_systems(100, 0.05)
    result = compare(first, second, words, speakers, 0)
    assert math.isnan(result.low) and math.isnan(result.better)
    assert result.matched_p == matched_pairs(first, second)
    with pytest.raises(ValueError, match="99 and 100"):
        compare(first[1:], second, words, speakers, 10)
    with pytest.raises(ValueError, match="0 words"):
        compare(first, second, np.zeros_like(words), speakers, 10)
    assert matched_pairs(np.zeros(60), np.ones(60)) == 0
