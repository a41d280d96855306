"""Metrics as rows."""

from __future__ import annotations

from flows.results import list_texts, list_word_errors, summarize_repeats

SCORES = {
    "speech": {
        "free": {
            "wer": 0.025,
            "substitutions": 3,
            "deletions": 1,
            "insertions": 1,
            "words": 200,
            "text_form": "casefold",
        },
        "ctc": {
            "wer": 1.1,
            "substitutions": 200,
            "deletions": 0,
            "insertions": 20,
            "words": 200,
            "text_form": "casefold",
        },
    },
    "noise": {"free": {"text_rate": 0.5, "clips": 4}},
}


def test_rates_of_speech_are_in_percent_with_their_counts() -> None:
    assert list_word_errors(SCORES) == [
        {"set": "speech", "system": "free", "WER %": "2.50", "S": 3, "D": 1, "I": 1, "words": 200},
        {
            "set": "speech",
            "system": "ctc",
            "WER %": "110.00",
            "S": 200,
            "D": 0,
            "I": 20,
            "words": 200,
        },
    ]


def test_intervals_kinds_and_characters_are_in_the_row_if_there_are_any() -> None:
    kinds = {"loop": 3, "echo": 0, "refusal": 0, "run-on": 0, "other": 1}
    figures = {
        "wer": 0.0272,
        "wer_low": 0.021,
        "wer_high": 0.0341,
        "cer": 0.0105,
        "insertion_kinds": kinds,
    }
    (row,) = list_word_errors({"speech": {"free": figures}})
    assert (row["WER %"], row["CER %"], row["inserted"]) == (
        "2.72 (2.10–3.41)",
        "1.05",
        "3 loop, 1 other",
    )
    (row,) = list_word_errors(
        {"speech": {"free": {**figures, "insertion_kinds": dict.fromkeys(kinds, 0)}}}
    )
    assert row["inserted"] == "none"
    texts = {
        "text_rate": 0.5,
        "clips": 4,
        "characters_a_minute": 61.25,
        "insertion_kinds": {"loop": 0, "echo": 0, "refusal": 0, "text": 2},
    }
    (row,) = list_texts({"noise": {"free": texts}})
    assert (row["characters a minute"], row["texts"]) == ("61.2", "2 text")


def test_the_row_of_nonspeech_has_the_share_of_clips_with_text() -> None:
    assert list_texts(SCORES) == [
        {"set": "noise", "system": "free", "clips with text %": "50.00", "clips": 4}
    ]


def test_repeats_are_summarized_by_mean_and_range() -> None:
    worse = {
        "speech": {
            "free": {"wer": 0.035, "insertions": 4, "words": 200},
            "ctc": {"wer": 1.0, "insertions": 20, "words": 200},
        },
        "noise": {"free": {"text_rate": 0.0, "clips": 4}},
    }
    assert summarize_repeats([SCORES, worse]) == [
        {
            "seeds": "2",
            "set": "speech",
            "system": "free",
            "WER %": "3.00 (2.50–3.50)",
            "insertions %": "1.25 (0.50–2.00)",
        },
        {
            "seeds": "2",
            "set": "speech",
            "system": "ctc",
            "WER %": "105.00 (100.00–110.00)",
            "insertions %": "10.00 (10.00–10.00)",
        },
        {"seeds": "2", "set": "noise", "system": "free", "clips with text %": "25.00 (0.00–50.00)"},
    ]
