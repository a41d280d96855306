"""Edit operations: they fit both texts, and their counts are those of the word error rate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.report.alignment import edit_operations
from components.text.wer import WordErrors, count_word_errors

texts = st.lists(st.sampled_from(["a", "b", "c", "ü"]), max_size=8).map(" ".join)


def align_columns(
    reference: list[str], hypothesis: list[str], operations: str
) -> list[tuple[str, str, str]]:
    """Operation, word of the reference and word of the hypothesis; "" if a side has none."""
    reference_words, hypothesis_words = iter(reference), iter(hypothesis)
    columns = [
        (
            letter,
            "" if letter == "I" else next(reference_words),
            "" if letter == "D" else next(hypothesis_words),
        )
        for letter in operations
    ]
    assert not [*reference_words, *hypothesis_words], "words without an operation"
    return columns


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_operations_fit_both_texts_and_count_as_the_word_error_rate(
    pairs: list[tuple[str, str]],
) -> None:
    operations = edit_operations([left for left, _ in pairs], [right for _, right in pairs])
    for (left, right), letters in zip(pairs, operations, strict=True):
        columns = align_columns(left.split(), right.split(), letters)
        assert [word for _, word, _ in columns if word] == left.split()
        assert [word for _, _, word in columns if word] == right.split()
        assert all((one == two) == (letter == "=") for letter, one, two in columns)
        errors = count_word_errors([left], [right], "as-is")
        counts = WordErrors(
            letters.count("S"), letters.count("D"), letters.count("I"), len(left.split())
        )
        assert counts == errors


def test_operations_in_reading_order() -> None:
    assert edit_operations(["the cat sat on the mat"], ["the bat sat the mat today"]) == ["=S=D==I"]
    assert edit_operations(["", "yes", " "], ["two words", "", ""]) == ["II", "D", ""]


def test_different_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 .* 1"):
        edit_operations(["a", "b"], ["a"])
