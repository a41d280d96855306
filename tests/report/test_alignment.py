"""Operations between two texts: they fit both sides, and count what the word error rate counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.report.alignment import columns, counts, operations
from components.text.wer import count_word_errors

texts = st.lists(st.sampled_from(["a", "b", "c", "ü"]), max_size=8).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_operations_fit_both_sides_and_count_as_the_word_error_rate(
    pairs: list[tuple[str, str]],
) -> None:
    found = operations([left for left, _ in pairs], [right for _, right in pairs])
    for (left, right), letters in zip(pairs, found, strict=True):
        shown = columns(left.split(), right.split(), letters)
        assert [word for _, word, _ in shown if word] == left.split()
        assert [word for _, _, word in shown if word] == right.split()
        assert all((one == two) == (letter == "=") for letter, one, two in shown)
        errors = count_word_errors([left], [right], "as-is")
        assert counts(letters) == (errors.substitutions, errors.deletions, errors.insertions)


def test_operations_in_reading_order() -> None:
    assert operations(["the cat sat on the mat"], ["the bat sat the mat today"]) == ["=S=D==I"]
    assert operations(["", "yes", " "], ["two words", "", ""]) == ["II", "D", ""]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="more words"):
        columns(["a"], [], "=")
    with pytest.raises(ValueError, match="words over"):
        columns(["a", "b"], ["a"], "=")
    with pytest.raises(ValueError, match="2 references against 1"):
        operations(["a", "b"], ["a"])
