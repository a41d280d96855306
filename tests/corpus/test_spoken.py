"""The embedded speech: the same bytes whenever it is made, and nothing shared between train, dev
and test.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from components.audio.sound import RATE
from components.corpus.generation import espeak
from components.corpus.generation.grammar import WORDS, split_of
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
