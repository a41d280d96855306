"""Tests between two systems, against plain references written from their formulas, and against what
chance makes of them.
"""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.intervals import SEED
from components.score.significance import FEW, compare, matched_pairs


def made(
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
    draw, found = np.random.default_rng(SEED), []
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
        found.append(wrong_second / total - wrong_first / total)
    found.sort()
    lower, upper = sum(each <= 1e-12 for each in found), sum(each >= -1e-12 for each in found)

    def point(share: float) -> float:
        place = share * (len(found) - 1)
        low = math.floor(place)
        return found[low] + (place - low) * (found[min(low + 1, len(found) - 1)] - found[low])

    return {
        "difference": sum(second) / sum(words) - sum(first) / sum(words),
        "low": point(0.025),
        "high": point(0.975),
        "better": (
            sum(each < -1e-12 for each in found) + sum(abs(each) <= 1e-12 for each in found) / 2
        )
        / len(found),
        "bootstrap_p": min(1.0, 2 * (min(lower, upper) + 1) / (resamples + 1)),
    }


@pytest.mark.parametrize("better", [0.0, 0.02, 0.1])
def test_the_paired_bootstrap_is_that_of_its_formula(better: float) -> None:
    first, second, words, speakers = made(60, better, seed=3)
    found = compare(first, second, words, speakers, 300)
    known = plain_bootstrap(first.tolist(), second.tolist(), words.tolist(), speakers, 300)
    assert {key: getattr(found, key) for key in known} == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_matched_pairs_of_many_utterances_are_those_of_its_formula(seed: int) -> None:
    """W = mean / (deviation / root of n), the deviation over n - 1, and both tails of the normal
    curve, by adding its density up.
    """
    first, second, _, _ = made(400, 0.01, seed)
    differences = (second - first).tolist()
    assert sum(each != 0 for each in differences) > FEW
    mean = sum(differences) / len(differences)
    variance = sum((each - mean) ** 2 for each in differences) / (len(differences) - 1)
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
        abs(sum(sign * each for sign, each in zip(signs, differences)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    share = sum(each >= abs(sum(differences)) for each in flips) / len(flips)
    found = matched_pairs(
        np.array([5] * len(differences), dtype=int),
        np.array([5 + each for each in differences], dtype=int),
    )
    assert found == pytest.approx(share)


def test_both_ways_to_count_meet() -> None:
    """Where the normal curve takes over, it says what the flips of signs say, wherever that
    matters.
    """
    draw = random.Random(1)
    for _ in range(20):
        differences = np.array([draw.choice([-2, -1, -1, 1, 1, 2, 2]) for _ in range(FEW)])
        more = np.concatenate([differences, [1, -1]])
        exact, normal = (matched_pairs(np.zeros(len(each)), each) for each in (differences, more))
        assert exact == pytest.approx(normal, abs=0.1)
        assert exact > 0.1 or exact == pytest.approx(normal, abs=0.03)


def test_the_first_against_the_second_is_the_second_against_the_first() -> None:
    first, second, words, speakers = made(200, 0.03)
    there, back = (
        compare(first, second, words, speakers, 500),
        compare(second, first, words, speakers, 500),
    )
    assert there.difference == -back.difference
    assert there.better == pytest.approx(1 - back.better)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert (there.matched_p, there.bootstrap_p) == (back.matched_p, back.bootstrap_p)


def test_a_system_against_itself_shows_nothing() -> None:
    first, _, words, speakers = made(100, 0)
    found = compare(first, first, words, speakers, 500)
    assert (found.difference, found.low, found.high, found.better) == (0, 0, 0, 0.5)
    assert (found.matched_p, found.bootstrap_p, found.significant) == (1, 1, False)


def test_a_much_better_system_is_significant_and_chance_is_rarely() -> None:
    found = compare(*made(300, 0.08), 1000)
    assert found.difference < found.high < 0
    assert found.better == 1
    assert found.significant
    assert 0 < found.bootstrap_p < 0.01
    by_chance = [compare(*made(120, 0, seed), 200) for seed in range(200)]
    assert sum(each.significant for each in by_chance) / 200 < 0.1
    assert sum(each.low <= 0 <= each.high for each in by_chance) / 200 > 0.85


def test_without_resamples_the_matched_pairs_stand_alone() -> None:
    first, second, words, speakers = made(100, 0.05)
    found = compare(first, second, words, speakers, 0)
    assert math.isnan(found.low) and math.isnan(found.better)
    assert found.matched_p == matched_pairs(first, second)
    with pytest.raises(ValueError, match="99 and 100 error counts"):
        compare(first[1:], second, words, speakers, 10)
    with pytest.raises(ValueError, match="of 0 words"):
        compare(first, second, np.zeros_like(words), speakers, 10)
    assert matched_pairs(np.zeros(60), np.ones(60)) == 0
