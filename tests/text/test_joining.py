"""Words of overlapping stretches: whatever was said comes out once, in its order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.text.joining import Word, estimate_word_times, join_words

FOREVER = 1e9


def spaced_words(texts: list[str], lengths: list[float]) -> list[Word]:
    """Words one behind the other."""
    ends = np.cumsum(lengths).tolist()
    return [Word(text, start, end) for text, start, end in zip(texts, [0.0, *ends], ends)]


def words_between(words: list[Word], start: float, end: float, broken: bool) -> list[Word]:
    """What is heard between two times: whole words, and bits of those at the edges where there are
    some.
    """
    words_found = []
    for word in words:
        if start <= word.start and word.end <= end:
            words_found.append(word)
        elif broken and word.start < end and word.end > start:
            words_found.append(
                Word("%" if word.start < start else "#", max(start, word.start), min(end, word.end))
            )
    return words_found


# Words that share no letters, so that none passes for another.
VOCABULARY = [letter * count for letter in "abcdefghijklmnopqrstuvwxyz" for count in (2,)] + [
    "12",
    "34",
    "56",
    "78",
    "90",
]
length = st.floats(0.1, 0.6)


@st.composite
def talks(draw: st.DrawFn, repeats: bool) -> tuple[list[Word], list[tuple[float, float]]]:
    """A talk, and windows of it of which each shares one to two seconds with the one before."""
    count = draw(st.integers(8, 30))
    few = st.lists(st.sampled_from(VOCABULARY[:3]), min_size=count, max_size=count)
    texts = draw(few if repeats else st.permutations(VOCABULARY))
    words = spaced_words(
        list(texts), draw(st.lists(length, min_size=len(texts), max_size=len(texts)))
    )
    windows, start = [], 0.0
    while True:
        end = start + draw(st.floats(3, 5))
        windows.append((start, min(end, words[-1].end)))
        if end >= words[-1].end:
            return words, windows
        start = end - draw(st.floats(1.3, 2))


def texts(stretches: list[list[Word]]) -> list[str]:
    return [word.text for words in stretches for word in words]


def overlaps(windows: list[tuple[float, float]]) -> list[tuple[float, float] | None]:
    return [None, *[(other[0], one[1]) for one, other in pairwise(windows)]]


@settings(max_examples=80, deadline=None)
@given(talks(repeats=False), st.booleans())
def test_every_word_comes_once_where_times_are_unknown(
    talk: tuple[list[Word], list[tuple[float, float]]], broken: bool
) -> None:
    words, windows = talk
    stretches = [
        estimate_word_times(" ".join(texts([words_between(words, *window, broken)])), *window)
        for window in windows
    ]
    assert texts(join_words(stretches, overlaps(windows), FOREVER)) == texts([words])


@settings(max_examples=80, deadline=None)
@given(talks(repeats=True), st.booleans())
def test_every_word_comes_once_where_the_same_few_are_repeated(talk, broken: bool) -> None:
    words, windows = talk
    stretches = [words_between(words, *window, broken) for window in windows]
    assert texts(join_words(stretches, overlaps(windows), 0.05)) == texts([words])


def test_measured_times_that_are_a_little_off_still_distinguish_repeats() -> None:
    words = spaced_words(["no"] * 12 + ["yes"] + ["no"] * 12, [0.35] * 25)
    one = [
        replace(word, start=word.start + 0.08, end=word.end + 0.1)
        for word in words_between(words, 0, 5.0, True)
    ]
    assert texts(
        join_words([one, words_between(words, 3.4, 9, True)], [None, (3.4, 5.0)], 0.2)
    ) == texts([words])


def test_a_word_recognised_differently_comes_once() -> None:
    one, other = (
        estimate_word_times("we saw the gray harbour at ni", 0, 4),
        estimate_word_times("ay harbor at night again", 2.4, 6),
    )
    assert texts(join_words([one, other], [None, (2.4, 4)], FOREVER)) == [
        "we",
        "saw",
        "the",
        "gray",
        "harbour",
        "at",
        "night",
        "again",
    ]


def test_case_and_punctuation_do_not_hide_a_word() -> None:
    one, other = (
        estimate_word_times("He said: well, then", 0, 3),
        estimate_word_times("Well then go.", 1.8, 4),
    )
    assert texts(join_words([one, other], [None, (1.8, 3)], FOREVER)) == [
        "He",
        "said:",
        "well,",
        "then",
        "go.",
    ]


def test_times_decide_where_nothing_is_in_common() -> None:
    one, other = (
        spaced_words(["aa", "bb", "cc", "dd"], [1, 1, 1, 1]),
        [Word("xx", 2, 3), Word("yy", 3, 4), Word("zz", 4, 5)],
    )
    assert texts(join_words([one, other], [None, (2, 4)], FOREVER)) == [
        "aa",
        "bb",
        "cc",
        "yy",
        "zz",
    ]


@pytest.mark.parametrize(
    ("one", "other", "both"), [("", "a b", "a b"), ("a b", "", "a b"), ("", "", "")]
)
def test_silence_on_a_side_costs_nothing_outside_the_overlap(
    one: str, other: str, both: str
) -> None:
    stretches = [estimate_word_times(one, 0, 2), estimate_word_times(other, 4, 6)]
    assert texts(join_words(stretches, [None, (2, 4)], FOREVER)) == both.split()


def test_words_that_one_side_alone_has_in_the_overlap_stay() -> None:
    """The other search stopped early, or began late."""
    early, late = (
        [Word("so", 0, 0.5)],
        [Word("we", 18.7, 18.9), Word("go", 19.0, 19.2), Word("home", 19.8, 20.2)],
    )
    assert texts(join_words([early, late], [None, (18.5, 20)], 0.5)) == ["so", "we", "go", "home"]
    assert texts(
        join_words([[*early, *late[:2]], [Word("now", 20.5, 21)]], [None, (18.5, 20)], 0.5)
    ) == ["so", "we", "go", "now"]


def test_stretches_that_only_touch_stay_as_they_are() -> None:
    stretches = [estimate_word_times("so so", 0, 2), estimate_word_times("so so", 2, 4)]
    assert join_words(stretches, [None, None], FOREVER) == stretches


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.floats(0, 9), st.floats(0, 9))
def test_estimated_times_fill_the_stretch(text: str, start: float, seconds: float) -> None:
    words = estimate_word_times(text, start, start + seconds)
    assert [word.text for word in words] == text.split()
    assert all(one.end == other.start for one, other in pairwise(words))
    if words:
        assert (words[0].start, words[-1].end) == pytest.approx((start, start + seconds))
