"""Kinds of inserted words, and that they add up to the insertions for any texts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.insertions import (
    FORM,
    KINDS,
    collect_phrases,
    find_loops,
    kind_of_clip,
    kinds_of_words,
    main_kind,
)
from components.score.metrics import count_errors
from components.text.hypothesis import Hypothesis
from components.text.wer import align_pairs

CHATML = "<|im_start|>user\n{speech} Transcribe speech to text.<|im_end|>\n<|im_start|>assistant\n"
PHRASES = collect_phrases(CHATML)
WORDS = st.sampled_from(
    [
        "the",
        "cat",
        "sat",
        "a",
        "b",
        "Mr.",
        "don't",
        "i'm",
        "sorry",
        "i",
        "cannot",
        "transcribe",
        "speech",
        "to",
        "text.",
        "USER:",
        "user",
        "Assistant:",
        "<|im_end|>",
        "[INST]",
        "(noise)",
        "uh",
        "twenty",
        "five",
        "£5",
        "-",
        "'",
        "I'm",
        "colour",
        "as",
        "an",
        "AI",
        "4.5",
        "ﬁ",
    ]
)
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)


def kinds(reference: str, hypothesis: str, phrases=PHRASES) -> dict[str, int]:
    (alignment,) = align_pairs([reference], [hypothesis], FORM)
    return dict(Counter(kinds_of_words(reference, hypothesis, alignment, phrases)))


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
def test_the_kinds_add_up_to_the_insertions(reference: str, hypothesis: str) -> None:
    (alignment,) = align_pairs([reference], [hypothesis], FORM)
    marks = kinds_of_words(reference, hypothesis, alignment, PHRASES)
    assert len(marks) == alignment.errors.insertions
    assert set(marks) <= set(KINDS)
    assert (main_kind(marks) in marks) if marks else main_kind(marks) == ""


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", {}),
        # loop
        ("yes", "yes yes yes", {"loop": 2}),
        ("the cat sat", "the cat the cat the cat sat", {"loop": 4}),
        (
            "the cat sat",
            "The cat, the cat sat",
            {"loop": 2},
        ),  # punctuation around a word hides no loop
        ("no no", "no no no", {"loop": 1}),
        ("no no", "no no now", {"run-on": 1}),  # the reference repeats it as often
        ("bye bye my dear", "bye bye my old dear", {"other": 1}),
        # echo
        ("the cat sat", "transcribe speech to text the cat sat", {"echo": 4}),
        ("the cat sat", "the cat sat Speech to text.", {"echo": 3}),  # a part of the prompt
        ("the cat sat", "USER: the cat sat ASSISTANT:", {"echo": 2}),
        ("the cat sat", "user the cat sat", {"other": 1}),  # the word alone may be speech
        ("the cat sat", "the cat sat<|im_end|> <|im_start|>", {"echo": 1}),
        (
            "he can transcribe speech to text",
            "well he can transcribe speech to text",
            {"other": 1},
        ),  # the reference has it
        # refusal
        ("the cat sat", "i'm sorry the cat sat", {"refusal": 2}),
        ("yes", "I’m sorry, but I can't hear any speech.", {"refusal": 7}),
        (
            "the cat sat",
            "the cat sat as an AI language model I listen. today",
            {"refusal": 7, "run-on": 1},
        ),
        ("sorry", "I'm sorry I hear nothing", {"refusal": 4}),
        (
            "i can do it",
            "i can't do it now",
            {"run-on": 1},
        ),  # no refusal: words of the reference follow
        ("i'm sorry about that", "i'm sorry about all that", {"other": 1}),  # the reference has it
        # run-on
        ("the cat sat", "the cat sat on the mat", {"run-on": 3}),
        ("the cat sat", "well the cat sat on", {"other": 1, "run-on": 1}),
        ("the cat", "a dog ran off", {"other": 2}),  # no correct word, so no run-on
        ("", "on the mat", {"other": 3}),
        ("", "on on", {"loop": 2}),
    ],
)
def test_a_kind_by_hand(reference: str, hypothesis: str, expected: dict[str, int]) -> None:
    assert kinds(reference, hypothesis) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello there" + " uh" * 30, {"loop": 30}),
        ("hello there [transcribe speech to text]", {"echo": 4}),
        ("hello there (i'm sorry, i hear nothing)", {"refusal": 5}),
    ],
)
def test_words_that_a_normaliser_removes_have_a_kind(text: str, expected: dict[str, int]) -> None:
    counts = count_errors([Hypothesis(text, reference="hello there")], "whisper", PHRASES)
    assert counts.insertions.sum() == 0, "Whisper's form drops fillers and brackets"
    assert Counter(counts.kinds[0]) == expected


def test_the_prompt_of_the_llm_is_used() -> None:
    template = "please write down what this person says: {speech}"
    assert kinds(
        "the cat sat", "write down what the cat sat", phrases=collect_phrases(template)
    ) == {"echo": 3}
    assert kinds("the cat sat", "write down what the cat sat") == {"other": 3}
    assert kinds("the cat sat", "here is the cat sat") == {"other": 2}, "people say that too"
    assert kinds("the cat sat", "here is the transcription the cat sat") == {"echo": 4}
    assert kinds(
        "the cat sat", "write what down the cat sat", phrases=collect_phrases(template)
    ) == {"other": 3}, "in another order"


def test_the_main_kind_of_an_utterance() -> None:
    assert main_kind(["other", "loop", "loop"]) == "loop"
    assert main_kind(["run-on", "echo"]) == "echo", "a tie: the first of the list"
    assert main_kind([]) == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", ""),
        (" \n", ""),
        ("you", "text"),
        ("you you you", "loop"),
        ("User: hello", "echo"),
        ("I'm sorry, I hear nothing.", "refusal"),
        ("ASSISTANT: I'm sorry.", "echo"),
        ("Thank you for watching!", "text"),
    ],
)
def test_a_clip_without_speech_has_one_kind(text: str, kind: str) -> None:
    assert kind_of_clip("", text, PHRASES) == kind


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    st.integers(2, 6),
    st.lists(st.sampled_from("xyz"), max_size=4, unique=True),
)
def test_repeated_sequences_are_loops(gram: list[str], times: int, context: list[str]) -> None:
    loops = find_loops([*context, *gram * times, *context], context)
    assert any(
        start <= len(context) and end >= len(context) + len(gram) * times for start, end in loops
    )
    assert not find_loops(gram * times, gram * times), "the reference repeats it as often"


def test_a_very_long_loop_is_fast() -> None:
    """A model that never stops: 21,000 words take seconds at most."""
    assert find_loops(["so", "it", "goes"] * 7000, ["so", "it", "goes"]) == [(0, 21000)]
