"""The embedded speech: the same bytes whenever it is made, and nothing shared between train, dev
and test.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from components.audio.sound import RATE
from components.corpus.generation import espeak
from components.corpus.generation.grammar import WORDS, split_of
from components.corpus.generation.prose import read_prose, transcribe_prose
from components.corpus.source import build_source
from components.corpus.sources.spoken import list_voices, voice_family
from tests.errors import refused

SETTINGS: dict[str, Any] = {
    "kind": "spoken",
    "split": "train",
    "utterances": 120,
    "seed": 1,
    "words_per_class": 0,
    "voices": 0,
    "speed": [160, 240],
    "pitch": [30, 70],
    "pitch_range": [30, 70],
    "tempo": [0.9, 1.0],
    "margin_seconds": [0.02, 0.1],
    "floor_db": [-75, -55],
    "chunk": 25,
}


def digests(split: str, **changed: Any) -> dict[str, str]:
    accepted, rejected = build_source(
        "some", split, {**SETTINGS, "split": split, **changed}
    ).list_utterances()
    assert not rejected
    return {row.id: row.sha256 for row in accepted}


def test_the_same_bytes_in_another_second(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breathy and whispering voices use random numbers that the library seeds with the
    time of day.
    """
    first = digests("train")
    time.sleep(1.1)
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    assert digests("train") == first


def test_more_utterances_leave_the_earlier_ones_as_they_are(work: Path) -> None:
    fewer = digests("dev", utterances=25)
    more = digests("dev", utterances=50)
    assert {name: more[name] for name in fewer} == fewer


def test_a_lost_work_cache_is_generated_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = build_source("some", "test", {**SETTINGS, "split": "test", "utterances": 10})
    row = origin.list_utterances()[0][0]
    before = origin.locate(row.path).read_bytes()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    assert origin.locate(row.path).read_bytes() == before


def test_splits_share_neither_voices_nor_sentences(work: Path) -> None:
    by_split = {split: list_voices(split) for split in ("train", "dev", "test")}
    assert sum(map(len, by_split.values())) == len(espeak.list_variants())
    families = {split: {voice_family(name) for name in names} for split, names in by_split.items()}
    assert (
        not families["train"] & families["test"]
        and not families["train"] & families["dev"]
        and not families["dev"] & families["test"]
    )
    assert len(by_split["test"]) >= 10
    texts = {
        split: {
            row.text
            for row in build_source("some", split, {**SETTINGS, "split": split}).list_utterances()[
                0
            ]
        }
        for split in by_split
    }
    assert all(split_of(text) == split for split, sentences in texts.items() for text in sentences)
    assert len(texts["test"]) == 120, "a test sentence stands once"


def test_digits_are_strings_of_one_to_seven_by_the_voices_of_the_split(work: Path) -> None:
    source = build_source("some", "dev", {**SETTINGS, "split": "dev", "texts": "digits"})
    rows = source.list_utterances()[0]
    assert {word for row in rows for word in row.text.split()} == set(WORDS["digit"])
    assert {2, 7} <= {len(row.text.split()) for row in rows} <= set(range(1, 8))
    assert {row.speaker for row in rows} <= {f"espeak-{name}" for name in list_voices("dev")}
    source = build_source("some", "train", {**SETTINGS, "texts": "digits"})
    seconds = sum(row.samples for row in source.list_utterances()[0]) / RATE
    assert source.estimate_size()[0] == pytest.approx(seconds, rel=0.15)  # type: ignore[attr-defined]


def test_too_few_different_sentences_stop(work: Path) -> None:
    """Two words a class give some thirty dev sentences: more are refused at once, not sought for
    ever.
    """
    with refused("some", "60", "2 words", "words_per_class"):
        build_source(
            "some", "dev", {**SETTINGS, "split": "dev", "utterances": 60, "words_per_class": 2}
        ).list_utterances()


def test_a_split_in_another_role_stops() -> None:
    with refused("some", "'train'", "'test'"):
        build_source("some", "test", SETTINGS)


def test_a_voice_that_the_library_refuses_stops() -> None:
    with refused("xx-none+f1"):
        espeak.Espeak().speak("hello", "xx-none", "f1", 175, 50, 50, 1)


def prose(split: str, **changed: Any) -> list[Any]:
    settings = {**SETTINGS, "split": split, "texts": "prose", **changed}
    return build_source("some", split, settings).list_utterances()[0]


def test_prose_is_read_whole_before_a_sentence_comes_again(work: Path) -> None:
    rows = prose("train", utterances=150)
    assert len({row.text for row in rows}) == 150
    assert all(split_of(row.text) == "train" for row in rows)
    assert all(re.fullmatch("[a-z]+('[a-z]+)*( [a-z]+('[a-z]+)*)*", row.text) for row in rows)
    assert {row.text for row in prose("train", utterances=150, seed=2)} != {r.text for r in rows}
    few = len(read_prose("dev"))
    with refused("some", str(few)):
        prose("dev", utterances=few + 1)


def test_prose_of_the_splits_is_apart() -> None:
    parts = {split: set(read_prose(split)) for split in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == 20_000
    assert len(set().union(*parts.values())) == 20_000
    assert min(map(len, parts.values())) > 1_800


def test_an_accent_is_heard(work: Path) -> None:
    """The same sentences by the same voices in two accents."""
    american, scottish = (
        {row.text: row for row in prose("dev", utterances=10, accents=[accent])}
        for accent in ("en-us", "en-gb-scotland")
    )
    assert american.keys() == scottish.keys()
    assert [row.speaker for row in american.values()] == [r.speaker for r in scottish.values()]
    assert all(row.sha256 != scottish[text].sha256 for text, row in american.items())
    with refused("accents.0", "en-au"):
        prose("dev", accents=["en-au"])


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Call me Ishmael.", "call me ishmael"),
        (
            "Aye, 'tis the whale's; the hollow-cheeked captain!",
            "aye tis the whale's the hollow cheeked captain",
        ),
        ("-- 'quoted' --", "quoted"),
    ],
)
def test_a_transcript_of_prose_has_words_alone(sentence: str, words: str) -> None:
    assert transcribe_prose(sentence) == words
