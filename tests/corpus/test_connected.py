"""Connected words: one speaker at a time, own takes only, the same bytes each time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.audio.sound import RATE, is_silent, read_waveform
from components.corpus.source import build_source
from tests.corpus.clips import clip, put
from tests.errors import refused

WORDS = ("one", "two", "three")
SETTINGS = {
    "kind": "connected",
    "root": "words",
    "table": "words.tsv",
    "speakers": ["ann", "bob"],
    "take_range": [0, 1],
    "utterances": 4,
    "words": [2, 5],
    "pause_seconds": [0.05, 0.2],
    "seed": 1,
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three words by three speakers, three takes each, told apart by their length; 8 kHz."""
    folder, lines = tmp_path / "words", ["path\tspeaker\ttranscript\ttake\n"]
    for speaker_index, speaker in enumerate(("ann", "bob", "cid")):
        for number, word in enumerate(WORDS):
            for take in range(3):
                path = f"{word}_{speaker}_{take}.wav"
                put(
                    folder / path,
                    clip(
                        rate=8_000,
                        form="WAV",
                        level=0.9,
                        seconds=0.1 * (1 + take) + 0.01 * number,
                        seed=speaker_index,
                    ),
                )
                lines.append(f"{path}\t{speaker}\t{word.title()}\t{take}\n")
    (folder / "words.tsv").write_text("".join(lines))
    monkeypatch.setenv("LIBRETTO_ROOT_WORDS", str(folder))
    return folder


def connected(role: str = "train", **changed):
    return build_source("joined", role, {**SETTINGS, **changed})


def audio(origin) -> dict[str, bytes]:
    return {row.id: origin.locate(row.path).read_bytes() for row in origin.list_utterances()[0]}


def test_the_rows_describe_the_files(root: Path) -> None:
    origin = connected()
    accepted, rejected = origin.list_utterances()
    assert not rejected
    assert [row.speaker for row in accepted] == ["ann"] * 4 + ["bob"] * 4
    assert len({row.text for row in accepted}) > 4
    for row in accepted:
        assert set(row.text.split()) <= set(WORDS)
        assert 2 <= len(row.text.split()) <= 5
        samples = read_waveform(origin.locate(row.path))
        assert row.sample_rate == RATE
        assert row.samples == len(samples)


def test_the_audio_is_words_with_pauses_around_them(root: Path) -> None:
    origin = connected(pause_seconds=[0.1, 0.1])
    for row in origin.list_utterances()[0]:
        samples = np.abs(read_waveform(origin.locate(row.path)))
        pause = int(0.1 * RATE)
        for part in (samples[: pause - 10], samples[10 - pause :]):
            assert 0 < part.max() < 0.005  # faint, and no digital silence
        loud = np.convolve(samples, np.ones(80) / 80, "same") > 0.05
        starts = int((np.diff(loud.astype(int)) == 1).sum())
        assert starts == len(row.text.split())


def test_the_same_bytes_in_another_work_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, first = connected().list_utterances(), audio(connected())
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    assert connected().list_utterances() == rows
    assert audio(connected()) == first


def test_a_file_that_the_work_cache_has_lost_is_generated_again(root: Path, work: Path) -> None:
    first = audio(connected())
    shutil.rmtree(work)
    row = next(iter(first))
    assert connected().locate(f"{row}.flac").read_bytes() == first[row]


def test_moving_the_root_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, first = connected().scan(), connected().list_utterances()
    shutil.copytree(root, tmp_path / "elsewhere")
    shutil.rmtree(root)
    monkeypatch.setenv("LIBRETTO_ROOT_WORDS", str(tmp_path / "elsewhere"))
    assert connected().scan() == scan
    assert connected().list_utterances() == first
    assert str(tmp_path) not in str(scan) + str(first)


@pytest.mark.parametrize("changed", [{"seed": 2}, {"take_range": [2, 2]}, {"words": [3, 3]}])
def test_another_setting_gives_other_audio(root: Path, changed: dict) -> None:
    assert audio(connected(**changed)) != audio(connected())


def test_only_the_takes_named_are_used(root: Path) -> None:
    files = [path for path, _ in connected(speakers=["bob"], take_range=[1, 2]).scan()["files"]]
    assert files == sorted(
        [f"{word}_bob_{take}.wav" for word in WORDS for take in (1, 2)] + ["words.tsv"]
    )
    for row in connected(
        speakers=["bob"], take_range=[2, 2], words=[1, 1], pause_seconds=[0, 0]
    ).list_utterances()[0]:
        assert row.samples == 2 * int(8_000 * (0.3 + 0.01 * WORDS.index(row.text)))


def test_two_roles_share_neither_names_nor_strings(root: Path) -> None:
    train, dev = (
        connected("train", utterances=20).list_utterances()[0],
        connected("dev", utterances=20).list_utterances()[0],
    )
    assert not {row.id for row in train} & {row.id for row in dev}
    assert [row.text for row in train] != [row.text for row in dev]


def test_a_broken_take_is_rejected_and_not_used(root: Path) -> None:
    put(root / "one_ann_0.wav", b"broken")
    put(root / "one_ann_1.wav", clip(rate=8_000, form="WAV", level=0.0))
    origin = connected(utterances=30)
    accepted, rejected = origin.list_utterances()
    assert [(row.path, row.reason.partition(":")[0]) for row in rejected] == [
        ("one_ann_0.wav", "unreadable"),
        ("one_ann_1.wav", "silent"),
    ]
    assert not [row for row in accepted if row.speaker == "ann" and "one" in row.text.split()]
    assert [row for row in accepted if row.speaker == "bob" and "one" in row.text.split()]
    assert not any(is_silent(read_waveform(origin.locate(row.path))) for row in accepted)


@pytest.mark.parametrize(
    ("changed", "subject", "part"),
    [
        ({"utterence": 3}, "utterence", "'utterances'"),
        ({"speakers": ["bobb"]}, "bobb", "'bob'"),
        ({"speakers": []}, "speakers", "'speakers'"),
        ({"speakers": ["ann", "ann"]}, "joined", "'speakers'"),
        ({"take_range": [1, 0]}, "take_range", "'take_range'"),
        ({"take_range": [7, 9]}, "ann", "'take_range'"),
        ({"takes": [0, 1]}, "takes", "'take_range'"),
        ({"words": [0, 3]}, "words.0", "'words.0'"),
        ({"pause_seconds": [0.5, 0.1]}, "pause_seconds", "'pause_seconds'"),
        ({"table": "word.tsv"}, "word.tsv", "'words.tsv'"),
    ],
)
def test_a_wrong_setting_is_named(root: Path, changed: dict, subject: str, part: str) -> None:
    with refused(subject, part):
        connected(**changed).list_utterances()


def test_a_take_that_is_missing_stops(root: Path) -> None:
    (root / "two_ann_0.wav").unlink()
    with refused("two_ann_0.wav"):
        connected().scan()


def test_real_digits_give_the_same_bytes_twice(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_DIGITS", str(recordings / "digits"))
    settings = {
        **SETTINGS,
        "root": "digits",
        "table": "digits.tsv",
        "speakers": ["george", "lucas"],
        "take_range": [0, 4],
        "utterances": 10,
    }
    first = build_source("digits", "dev", settings)
    accepted, rejected = first.list_utterances()
    sound = audio(first)
    assert not rejected
    assert {row.speaker for row in accepted} == {"george", "lucas"}
    digits = "zero one two three four five six seven eight nine"
    assert {word for row in accepted for word in row.text.split()} == set(digits.split())
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    second = build_source("digits", "dev", settings)
    assert audio(second) == sound
    assert second.list_utterances() == (accepted, rejected)
