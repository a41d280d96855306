"""Metrics as rows, and rows as text."""

from __future__ import annotations

from flows.results import aligned, text_on_nonspeech, word_errors

SCORES = {
    "heard": {
        "free": {"wer": 0.025, "substitutions": 3, "deletions": 1, "insertions": 1, "words": 200, "text_form": "casefold"},
        "ctc": {"wer": 1.1, "substitutions": 200, "deletions": 0, "insertions": 20, "words": 200, "text_form": "casefold"},
    },
    "noise": {"free": {"text_rate": 0.5, "clips": 4}},
}


def test_speech_gives_rates_in_percent_with_their_counts() -> None:
    assert word_errors(SCORES) == [
        {"set": "heard", "system": "free", "WER %": "2.50", "S": 3, "D": 1, "I": 1, "words": 200},
        {"set": "heard", "system": "ctc", "WER %": "110.00", "S": 200, "D": 0, "I": 20, "words": 200},
    ]


def test_nonspeech_gives_the_share_of_clips_with_text() -> None:
    assert text_on_nonspeech(SCORES) == [{"set": "noise", "system": "free", "clips with text %": "50.00", "clips": 4}]


def test_columns_are_aligned() -> None:
    assert aligned([{"a": "1", "b": "x"}, {"a": "1000", "c": "y"}]) == "a     b  c\n1     x\n1000     y"
