"""Metrics as rows, and rows as text."""

from __future__ import annotations

from flows.results import aligned, spread, text_on_nonspeech, word_errors

SCORES = {
    "heard": {
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


def test_speech_gives_rates_in_percent_with_their_counts() -> None:
    assert word_errors(SCORES) == [
        {"set": "heard", "system": "free", "WER %": "2.50", "S": 3, "D": 1, "I": 1, "words": 200},
        {
            "set": "heard",
            "system": "ctc",
            "WER %": "110.00",
            "S": 200,
            "D": 0,
            "I": 20,
            "words": 200,
        },
    ]


def test_an_interval_kinds_and_characters_stand_beside_a_rate_where_there_are_any() -> None:
    kinds = {"loop": 3, "echo": 0, "refusal": 0, "run-on": 0, "other": 1}
    own = {
        "wer": 0.0272,
        "wer_low": 0.021,
        "wer_high": 0.0341,
        "cer": 0.0105,
        "insertion_kinds": kinds,
    }
    (row,) = word_errors({"heard": {"free": own}})
    assert (row["WER %"], row["CER %"], row["inserted"]) == (
        "2.72 (2.10–3.41)",
        "1.05",
        "3 loop, 1 other",
    )
    (row,) = word_errors({"heard": {"free": {**own, "insertion_kinds": dict.fromkeys(kinds, 0)}}})
    assert row["inserted"] == "none"
    quiet = {
        "text_rate": 0.5,
        "clips": 4,
        "characters_a_minute": 61.25,
        "insertion_kinds": {"loop": 0, "echo": 0, "refusal": 0, "text": 2},
    }
    (row,) = text_on_nonspeech({"noise": {"free": quiet}})
    assert (row["characters a minute"], row["texts"]) == ("61.2", "2 text")


def test_nonspeech_gives_the_share_of_clips_with_text() -> None:
    assert text_on_nonspeech(SCORES) == [
        {"set": "noise", "system": "free", "clips with text %": "50.00", "clips": 4}
    ]


def test_columns_are_aligned() -> None:
    assert (
        aligned([{"a": "1", "b": "x"}, {"a": "1000", "c": "y"}])
        == "a     b  c\n1     x\n1000     y"
    )


def test_repeats_give_mean_and_range() -> None:
    worse = {
        "heard": {
            "free": {"wer": 0.035, "insertions": 4, "words": 200},
            "ctc": {"wer": 1.0, "insertions": 20, "words": 200},
        },
        "noise": {"free": {"text_rate": 0.0, "clips": 4}},
    }
    assert spread([SCORES, worse]) == [
        {
            "seeds": "2",
            "set": "heard",
            "system": "free",
            "WER %": "3.00 (2.50–3.50)",
            "insertions %": "1.25 (0.50–2.00)",
        },
        {
            "seeds": "2",
            "set": "heard",
            "system": "ctc",
            "WER %": "105.00 (100.00–110.00)",
            "insertions %": "10.00 (10.00–10.00)",
        },
        {"seeds": "2", "set": "noise", "system": "free", "clips with text %": "25.00 (0.00–50.00)"},
    ]
