"""Metrics as rows, and rows as text."""

from __future__ import annotations

from flows.results import aligned, spread, text_on_nonspeech, word_errors

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


def test_repeats_give_mean_and_range() -> None:
    worse = {"heard": {"free": {"wer": 0.035, "insertions": 4, "words": 200}, "ctc": {"wer": 1.0, "insertions": 20, "words": 200}},
             "noise": {"free": {"text_rate": 0.0, "clips": 4}}}  # fmt: skip
    assert spread([SCORES, worse]) == [
        {"seeds": "2", "set": "heard", "system": "free", "WER %": "3.00 (2.50–3.50)", "insertions %": "1.25 (0.50–2.00)"},
        {"seeds": "2", "set": "heard", "system": "ctc", "WER %": "105.00 (100.00–110.00)", "insertions %": "10.00 (10.00–10.00)"},
        {"seeds": "2", "set": "noise", "system": "free", "clips with text %": "25.00 (0.00–50.00)"},
    ]
