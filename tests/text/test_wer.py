"""The word error rate is (S + D + I) / N over the whole set, counted against the definition of the edit distance."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.text.forms import FORMS, in_form
from components.text.wer import WordErrors, word_errors

# Few words, so that texts have many in common; those that differ by case, or fold to more than one letter; odd white space.
WORDS = st.sampled_from(["a", "b", "A", "B", "Straße", "STRASSE", "don't", "ǅ", "四"])
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u2003"])
FORM = st.sampled_from(sorted(FORMS))
any_time = settings(deadline=None)


@st.composite
def texts(draw: st.DrawFn) -> str:
    return "".join(draw(SPACES) + word for word in draw(st.lists(WORDS, max_size=7))) + draw(st.sampled_from(["", " "]))


PAIRS = st.lists(st.tuples(texts(), texts()), max_size=6)


def distance(reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> int:
    """The least number of substitutions, deletions and insertions (Levenshtein), by its recursive definition."""

    @cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = reference[i - 1] == hypothesis[j - 1]
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (not same))

    return least(len(reference), len(hypothesis))


def words(text: str, form: str) -> tuple[str, ...]:
    return tuple(word.casefold() if form == "casefold" else word for word in text.split())


def counted(pairs: list[tuple[str, str]], form: str) -> WordErrors:
    return word_errors([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs], form)


def total(errors: WordErrors) -> int:
    return errors.substitutions + errors.deletions + errors.insertions


@any_time
@given(PAIRS, FORM)
def test_errors_are_the_edit_distance(pairs: list[tuple[str, str]], form: str) -> None:
    errors = counted(pairs, form)
    spoken = [(words(reference, form), words(hypothesis, form)) for reference, hypothesis in pairs]
    assert total(errors) == sum(distance(*pair) for pair in spoken)
    assert errors.words == sum(len(reference) for reference, _ in spoken)
    assert errors.insertions - errors.deletions == sum(len(hypothesis) - len(reference) for reference, hypothesis in spoken)
    assert min(errors.substitutions, errors.deletions, errors.insertions, errors.words - errors.substitutions - errors.deletions) >= 0
    assert errors.wer == (total(errors) / errors.words if errors.words else 0.0)


@any_time
@given(PAIRS, PAIRS, FORM)
def test_errors_of_two_sets_add_up(one: list, other: list, form: str) -> None:
    assert counted(one + other, form) == counted(one, form) + counted(other, form)
    assert sum((counted([pair], form) for pair in one), WordErrors()) == counted(one, form)


@any_time
@given(st.lists(texts(), max_size=5), FORM)
def test_the_same_text_has_no_errors(said: list[str], form: str) -> None:
    errors = word_errors(said, said, form)
    assert (total(errors), errors.wer) == (0, 0.0)
    assert errors.words == sum(len(text.split()) for text in said)


@any_time
@given(st.lists(texts(), min_size=1, max_size=5), FORM)
def test_words_over_an_empty_reference_are_insertions(said: list[str], form: str) -> None:
    count = sum(len(text.split()) for text in said)
    assert word_errors([" "] * len(said), said, form) == WordErrors(insertions=count)
    assert word_errors(said, [""] * len(said), form) == WordErrors(deletions=count, words=count)


@any_time
@given(PAIRS)
def test_casefold_is_as_is_on_folded_text(pairs: list[tuple[str, str]]) -> None:
    folded = [(reference.casefold(), hypothesis.casefold()) for reference, hypothesis in pairs]
    assert counted(pairs, "casefold") == counted(folded, "casefold") == counted(folded, "as-is")
    assert total(counted(pairs, "casefold")) <= total(counted(pairs, "as-is"))
    assert counted(pairs, "casefold").words == counted(pairs, "as-is").words


@any_time
@given(texts(), FORM)
def test_a_form_neither_merges_nor_drops_words(text: str, form: str) -> None:
    assert tuple(in_form(text, form).split(" ")) == (words(text, form) or ("",))
    assert in_form(in_form(text, form), form) == in_form(text, form)


def test_an_example_by_hand() -> None:
    references = ["the cat sat on the mat", "GOOD morning"]
    hypotheses = ["the bat sat the mat today", "good morning"]
    assert word_errors(references, hypotheses, "casefold") == WordErrors(substitutions=1, deletions=1, insertions=1, words=8)
    assert word_errors(references, hypotheses, "casefold").wer == 3 / 8
    assert word_errors(references, hypotheses, "as-is").substitutions == 2


def test_the_rate_may_pass_one() -> None:
    assert word_errors(["one"], ["a b c d"], "as-is").wer == 4.0


def test_nothing_at_all_is_no_error() -> None:
    assert word_errors([], [], "as-is") == WordErrors()


@pytest.mark.parametrize(("references", "hypotheses"), [(["a"], []), ([], ["a"]), (["a", "b"], ["a"])])
def test_sets_of_different_size_are_refused(references: list[str], hypotheses: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(references)} references against {len(hypotheses)} hypotheses"):
        word_errors(references, hypotheses, "as-is")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(KeyError, match="upper"):
        word_errors(["a"], ["a"], "upper")
