"""What kind an inserted word is of, and that the kinds of a set add up to its insertions whatever
the texts.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.score.insertions import (
    FORM,
    KINDS,
    evidence,
    kind_of_clip,
    kinds_of_words,
    loops,
    main_kind,
)
from components.score.metrics import count
from components.text.hypothesis import Hypothesis
from components.text.wer import align_pairs

CHATML = "<|im_start|>user\n{speech} Transcribe speech to text.<|im_end|>\n<|im_start|>assistant\n"
KNOWN = evidence(CHATML)
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


def kinds(reference: str, hypothesis: str, known=KNOWN) -> dict[str, int]:
    (alignment,) = align_pairs([reference], [hypothesis], FORM)
    return dict(Counter(kinds_of_words(reference, hypothesis, alignment, known)))


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
def test_the_kinds_add_up_to_the_insertions(reference: str, hypothesis: str) -> None:
    (alignment,) = align_pairs([reference], [hypothesis], FORM)
    found = kinds_of_words(reference, hypothesis, alignment, KNOWN)
    assert len(found) == alignment.errors.insertions
    assert set(found) <= set(KINDS)
    assert (main_kind(found) in found) if found else main_kind(found) == ""


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
        ("the cat sat", "user the cat sat", {"other": 1}),  # the word alone may have been heard
        ("the cat sat", "the cat sat<|im_end|> <|im_start|>", {"echo": 1}),
        (
            "he can transcribe speech to text",
            "well he can transcribe speech to text",
            {"other": 1},
        ),  # it was said
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
        ),  # no refusal: words that were said follow
        ("i'm sorry about that", "i'm sorry about all that", {"other": 1}),  # it was said
        # run-on
        ("the cat sat", "the cat sat on the mat", {"run-on": 3}),
        ("the cat sat", "well the cat sat on", {"other": 1, "run-on": 1}),
        ("the cat", "a dog ran off", {"other": 2}),  # nothing was heard, so nothing runs on
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
def test_what_a_normaliser_takes_away_keeps_its_kind(text: str, expected: dict[str, int]) -> None:
    row = Hypothesis(text, [], 0.0, [], "free", "1", "", "en", "hello there", 1.0)
    counts = count([row], "whisper", KNOWN)
    assert counts.insertions.sum() == 0, "Whisper's form drops fillers and brackets"
    assert Counter(counts.kinds[0]) == expected


def test_the_prompt_in_use_is_known() -> None:
    asked = "please write down what this person says: {speech}"
    assert kinds("the cat sat", "write down what the cat sat", known=evidence(asked)) == {"echo": 3}
    assert kinds("the cat sat", "write down what the cat sat") == {"other": 3}
    assert kinds("the cat sat", "here is the cat sat") == {"other": 2}, "people say that too"
    assert kinds("the cat sat", "here is the transcription the cat sat") == {"echo": 4}
    assert kinds("the cat sat", "write what down the cat sat", known=evidence(asked)) == {
        "other": 3
    }, "in another order"


def test_one_kind_stands_for_an_utterance() -> None:
    assert main_kind(["other", "loop", "loop"]) == "loop"
    assert main_kind(["run-on", "echo"]) == "echo", "of equals the first of the list"
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
    assert kind_of_clip("", text, KNOWN) == kind


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    st.integers(2, 6),
    st.lists(st.sampled_from("xyz"), max_size=4, unique=True),
)
def test_whatever_is_repeated_is_found(gram: list[str], times: int, around: list[str]) -> None:
    found = loops([*around, *gram * times, *around], around)
    assert any(
        start <= len(around) and end >= len(around) + len(gram) * times for start, end in found
    )
    assert not loops(gram * times, gram * times), "the reference repeats it as often"


def test_a_very_long_loop_takes_no_time() -> None:
    """A model that never stops: 20,000 words are looked at in seconds at most."""
    assert loops(["so", "it", "goes"] * 7000, ["so", "it", "goes"]) == [(0, 21000)]
