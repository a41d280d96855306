"""The word error rate is (S + D + I) / N over the whole set, counted against the definition of the
edit distance.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_normalizer.english import EnglishTextNormalizer

from components.text import forms
from components.text.forms import FORMS, normalise, prepare
from components.text.wer import (
    WordErrors,
    align_pairs,
    compute_wer,
    count_character_errors,
    count_pair_errors,
    count_word_errors,
)

# Few words, so that texts have many in common; those that differ by case, or fold to more than one
# letter; odd white space.
WORDS = st.sampled_from(
    ["a", "b", "A", "B", "Straße", "STRASSE", "don't", "don’t", "é", "e\u0301", "ǅ", "四"]
)
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u2003"])
FORM = st.sampled_from(sorted(FORMS))
any_time = settings(deadline=None)


@st.composite
def texts(draw: st.DrawFn) -> str:
    return "".join(draw(SPACES) + word for word in draw(st.lists(WORDS, max_size=7))) + draw(
        st.sampled_from(["", " "])
    )


PAIRS = st.lists(st.tuples(texts(), texts()), max_size=6)


def distance(reference: tuple[str, ...] | str, hypothesis: tuple[str, ...] | str) -> int:
    """The least number of substitutions, deletions and insertions (Levenshtein), by its recursive
    definition.
    """

    @cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = reference[i - 1] == hypothesis[j - 1]
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (not same))

    return least(len(reference), len(hypothesis))


def words(text: str, form: str) -> tuple[str, ...]:
    if form == "whisper":
        return tuple(EnglishTextNormalizer()(text).split())
    return tuple((fold(text) if form == "casefold" else text).split())


def fold(text: str) -> str:
    """Case folded, composed, with one apostrophe."""
    plain = re.sub(
        "[\u2018\u2019\u201b\u02bc\uff07\u00b4`]", "'", unicodedata.normalize("NFC", text)
    )
    return unicodedata.normalize("NFC", plain.casefold())


def counted(pairs: list[tuple[str, str]], form: str) -> WordErrors:
    return count_word_errors(
        [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs], form
    )


def total(errors: WordErrors) -> int:
    return errors.substitutions + errors.deletions + errors.insertions


@any_time
@given(PAIRS, FORM)
def test_errors_are_the_edit_distance(pairs: list[tuple[str, str]], form: str) -> None:
    errors = counted(pairs, form)
    normalised = [
        (words(reference, form), words(hypothesis, form)) for reference, hypothesis in pairs
    ]
    assert total(errors) == sum(distance(*pair) for pair in normalised)
    assert errors.words == sum(len(reference) for reference, _ in normalised)
    assert errors.insertions - errors.deletions == sum(
        len(hypothesis) - len(reference) for reference, hypothesis in normalised
    )
    assert (
        min(
            errors.substitutions,
            errors.deletions,
            errors.insertions,
            errors.words - errors.substitutions - errors.deletions,
        )
        >= 0
    )
    assert errors.wer == (total(errors) / errors.words if errors.words else 0.0)
    assert (
        compute_wer(
            [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs], form
        )
        == errors.wer
    )


@any_time
@given(PAIRS, PAIRS, FORM)
def test_errors_of_two_sets_add_up(one: list, other: list, form: str) -> None:
    assert counted(one + other, form) == counted(one, form) + counted(other, form)
    assert sum((counted([pair], form) for pair in one), WordErrors()) == counted(one, form)


@any_time
@given(st.lists(texts(), max_size=5), FORM)
def test_the_same_text_has_no_errors(phrases: list[str], form: str) -> None:
    errors = count_word_errors(phrases, phrases, form)
    assert (total(errors), errors.wer) == (0, 0.0)
    assert errors.words == sum(len(words(text, form)) for text in phrases)


@any_time
@given(st.lists(texts(), min_size=1, max_size=5), FORM)
def test_words_over_an_empty_reference_are_insertions(phrases: list[str], form: str) -> None:
    count = sum(len(words(text, form)) for text in phrases)
    assert count_word_errors([" "] * len(phrases), phrases, form) == WordErrors(insertions=count)
    assert count_word_errors(phrases, [""] * len(phrases), form) == WordErrors(
        deletions=count, words=count
    )


@any_time
@given(PAIRS)
def test_casefold_is_as_is_on_folded_text(pairs: list[tuple[str, str]]) -> None:
    folded = [(fold(reference), fold(hypothesis)) for reference, hypothesis in pairs]
    assert counted(pairs, "casefold") == counted(folded, "casefold") == counted(folded, "as-is")
    assert total(counted(pairs, "casefold")) <= total(counted(pairs, "as-is"))
    assert counted(pairs, "casefold").words == counted(pairs, "as-is").words


@pytest.mark.parametrize("reference", ["don't", "café", "ΐ", "가다", "straße"])
def test_casefold_knows_one_apostrophe_and_one_coding_of_a_letter(reference: str) -> None:
    for spelt in (
        reference.replace("'", "\u2019"),
        unicodedata.normalize("NFD", reference),
        unicodedata.normalize("NFD", reference.upper()),
    ):
        assert compute_wer([reference], [spelt], "casefold") == 0
        assert (compute_wer([reference], [spelt], "as-is") == 1) == (spelt != reference)


@any_time
@given(texts(), st.sampled_from(["as-is", "casefold"]))
def test_the_classic_forms_neither_merge_nor_drop_words(text: str, form: str) -> None:
    assert tuple(normalise(text, form).split(" ")) == (words(text, form) or ("",))
    assert normalise(normalise(text, form), form) == normalise(text, form)


@any_time
@given(PAIRS, FORM)
def test_counts_are_those_of_jiwer(pairs: list[tuple[str, str]], form: str) -> None:
    normalised = [
        (" ".join(words(reference, form)), " ".join(words(hypothesis, form)))
        for reference, hypothesis in pairs
    ]
    for one, errors in zip(
        normalised,
        count_pair_errors([pair[0] for pair in pairs], [pair[1] for pair in pairs], form),
        strict=True,
    ):
        if one[0]:  # jiwer refuses an empty reference
            expected = jiwer.process_words(*one)
            assert (errors.substitutions, errors.deletions, errors.insertions) == (
                expected.substitutions,
                expected.deletions,
                expected.insertions,
            )
            assert errors.wer == pytest.approx(expected.wer)


@any_time
@given(PAIRS, FORM)
def test_character_errors_are_the_edit_distance_with_spaces(
    pairs: list[tuple[str, str]], form: str
) -> None:
    output = count_character_errors(
        [reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs], form
    )
    normalised = [
        (" ".join(words(reference, form)), " ".join(words(hypothesis, form)))
        for reference, hypothesis in pairs
    ]
    assert output == [(distance(*pair), len(pair[0])) for pair in normalised]
    nonempty = [(pair, count) for pair, count in zip(normalised, output, strict=True) if pair[0]]
    if nonempty:
        rate = sum(errors for _, (errors, _) in nonempty) / sum(count for _, (_, count) in nonempty)
        assert rate == pytest.approx(
            jiwer.cer([pair[0] for pair, _ in nonempty], [pair[1] for pair, _ in nonempty])
        )


@any_time
@given(PAIRS, FORM)
def test_inserted_words_are_where_the_hypothesis_has_them(
    pairs: list[tuple[str, str]], form: str
) -> None:
    """Without them, what is left of a hypothesis has no insertion; and the last equal word is one
    of the reference.
    """
    for reference, hypothesis in pairs:
        (output,) = align_pairs([reference], [hypothesis], form)
        reference_words, hypothesis_words = words(reference, form), words(hypothesis, form)
        assert len(output.inserted) == len(set(output.inserted)) == output.errors.insertions
        remaining_words = [
            word for at, word in enumerate(hypothesis_words) if at not in output.inserted
        ]
        assert distance(reference_words, tuple(remaining_words)) == total(output.errors) - len(
            output.inserted
        )
        assert output.matched == 0 or hypothesis_words[output.matched - 1] in reference_words
        assert output.matched - 1 not in output.inserted


def test_whispers_form_is_that_of_its_paper() -> None:
    """Appendix C of arXiv 2212.04356: fillers and brackets go, contractions are spoken out, numbers
    and spelling are one.
    """
    text = "Uh, Mr. Quilter's [noise] COLOUR won't fade for twenty-five years (laughs)!"
    assert normalise(text, "whisper") == "mister quilter is color will not fade for 25 years"
    errors = count_word_errors(
        ["i can not go at nine o'clock"], ["I can't go at 9 o'clock."], "whisper"
    )
    assert total(errors) == 0
    assert (
        total(
            count_word_errors(
                ["i can not go at nine o'clock"], ["I can't go at 9 o'clock."], "casefold"
            )
        )
        == 4
    )


@any_time
@given(st.text(max_size=30))
def test_whispers_form_of_any_text_has_single_spaces(text: str) -> None:
    form = normalise(text, "whisper")
    assert form == " ".join(form.split())
    assert (
        form
        == normalise(f"  {text}\n", "whisper")
        == " ".join(EnglishTextNormalizer()(" ".join(text.lower().split())).split())
    )


def test_texts_prepared_in_worker_processes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    monkeypatch.setattr(forms, "MAX_SERIAL", 10)
    monkeypatch.setattr(forms, "CHUNK", 7)
    monkeypatch.setattr(forms, "_normalised", {})
    phrases = [f"I'll take number {number}, the grey one" for number in range(40)]
    prepare([*phrases, *phrases], "whisper", ["en"] * 80)
    forms_by_text = dict(forms._normalised)
    assert len(forms_by_text) == 40
    forms._normalised.clear()
    assert [normalise(text, "whisper") for text in phrases] == [
        forms_by_text["en", text.lower()] for text in phrases
    ]
    assert normalise(phrases[7], "whisper") == "i will take number 7 the gray one"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Don't, he's seventy-five [laughs]", "do not he is 75"),
        ("en-GB", "the grey colour", "the gray color"),
        ("", "the grey colour", "the gray color"),
        ("de", "Schön, um 10 Uhr!", "schön um 10 uhr"),
        ("de", "grey colour", "grey colour"),
        ("fr", "C’est l’été (rires)", "c est l été"),
        ("hi", "नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("zh", "你好，世界", "你 好 世 界"),
        ("eng", "the grey colour", "the gray color"),
        ("cmn", "你好", "你 好"),
    ],
)
def test_whispers_form_is_that_of_the_language(language: str, text: str, expected: str) -> None:
    """Only English has its numbers, spelling and contractions rewritten; marks stay elsewhere."""
    assert normalise(text, "whisper", language) == expected
    assert compute_wer([text], [expected], "whisper", [language]) == 0


@pytest.mark.parametrize("form", ["whisper", "casefold"])
def test_characters_of_a_language_without_spaces_count_without_them(form: str) -> None:
    assert count_character_errors(["你好"], ["你号"], form, ["zh"]) == [(1, 2)]
    assert count_character_errors(["a b"], ["a c"], form, ["en"]) == [(1, 3)]


def test_a_pair_is_compared_in_its_own_language() -> None:
    references, hypotheses = ["the grey one", "der graue Wolf"], ["the gray one", "der Graue wolf."]
    assert compute_wer(references, hypotheses, "whisper", ["en", "de"]) == 0
    assert compute_wer(references, hypotheses, "whisper", ["de", "de"]) == 1 / 6


def test_an_example_by_hand() -> None:
    references = ["the cat sat on the mat", "GOOD morning"]
    hypotheses = ["the bat sat the mat today", "good morning"]
    assert count_word_errors(references, hypotheses, "casefold") == WordErrors(
        substitutions=1, deletions=1, insertions=1, words=8
    )
    assert count_word_errors(references, hypotheses, "casefold").wer == 3 / 8
    assert count_word_errors(references, hypotheses, "as-is").substitutions == 2


def test_the_rate_may_pass_one() -> None:
    assert count_word_errors(["one"], ["a b c d"], "as-is").wer == 4.0


def test_nothing_at_all_is_no_error() -> None:
    assert count_word_errors([], [], "as-is") == WordErrors()


@pytest.mark.parametrize(
    ("references", "hypotheses"), [(["a"], []), ([], ["a"]), (["a", "b"], ["a"])]
)
def test_sets_of_different_size_are_refused(references: list[str], hypotheses: list[str]) -> None:
    with pytest.raises(
        ValueError, match=f"{len(references)} references against {len(hypotheses)} hypotheses"
    ):
        count_word_errors(references, hypotheses, "as-is")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(KeyError, match="upper"):
        count_word_errors(["a"], ["a"], "upper")
