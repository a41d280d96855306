"""Folders of non-speech: what is taken, and that nothing sung, too short or too long
passes for it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.corpus.build import count_rows
from components.corpus.source import build_source
from tests.closed_folders import close_folders
from tests.corpus.clips import BROKEN, clip, put
from tests.errors import refused


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in MUSAN's layout."""
    folder = tmp_path / "sounds"
    put(folder / "musan/noise/free-sound/noise-1.wav", clip(form="WAV"))
    put(folder / "musan/noise/free-sound/deep/noise-2.FLAC", clip(channels=2, rate=8_000))
    put(folder / "musan/noise/free-sound/ANNOTATIONS", b"noise-1 whatever\n")
    put(folder / "musan/noise/sound-bible/noise-3.ogg", clip(form="OGG", seed=3))
    put(folder / "musan/speech/librivox/speech-1.wav", clip(form="WAV", seed=4))
    for number in range(4):
        put(folder / f"musan/music/fma/music-{number}.wav", clip(form="WAV", seed=5 + number))
    put(
        folder / "musan/music/fma/ANNOTATIONS",
        b"music-0 jazz,blues N Somebody\nmusic-1 opera Y A_Singer\nmusic-2 folk\n",
    )
    monkeypatch.setenv("LIBRETTO_ROOT_SOUNDS", str(folder))
    return folder


def clips(role: str = "noise", **changed):
    return build_source(
        "some", role, {"kind": "clips", "root": "sounds", "folders": ["musan/noise"], **changed}
    )


def accepted_ids(**changed) -> list[str]:
    return [row.id for row in clips(**changed).list_utterances()[0]]


@pytest.mark.parametrize("role", ["nonspeech-train", "nonspeech-test", "noise"])
def test_every_sound_below_the_folders_is_accepted_without_text(role: str, root: Path) -> None:
    rows, rejected = clips(role).list_utterances()
    assert not rejected
    assert [row.id for row in rows] == ["noise-1", "noise-2", "noise-3"]
    assert {(row.text, row.speaker, row.split) for row in rows} == {("", "", role)}
    assert clips().locate(rows[0].path).is_file()


def test_folders_and_names_are_picked(root: Path) -> None:
    assert accepted_ids(folders=["musan/noise/sound-bible"]) == ["noise-3"]
    assert accepted_ids(folders=["musan"], without=["musan/speech/*", "musan/music/*"]) == [
        "noise-1",
        "noise-2",
        "noise-3",
    ]
    assert accepted_ids(folders=["musan/noise"], only="*.ogg") == ["noise-3"]
    assert accepted_ids(folders=["musan/noise"], only="*-1*") == ["noise-1"]


def test_music_with_vocals_is_rejected(root: Path) -> None:
    rows, rejected = clips(folders=["musan/music"], annotations="ANNOTATIONS").list_utterances()
    assert [row.id for row in rows] == ["music-0"]
    assert {row.id: row.reason.partition(":")[0] for row in rejected} == {
        "music-1": "vocals",
        "music-2": "not annotated",
        "music-3": "not annotated",
    }
    assert len(accepted_ids(folders=["musan/music"])) == 4


def test_a_changed_annotation_changes_the_scan(root: Path) -> None:
    music = {"folders": ["musan/music"], "annotations": "ANNOTATIONS"}
    before = clips(**music).scan()["digest"]
    lines = root / "musan/music/fma/ANNOTATIONS"
    lines.write_bytes(lines.read_bytes().replace(b" N ", b" Y "))
    assert clips(**music).scan()["digest"] != before


def test_what_is_no_file_is_rejected_and_links_multiply_nothing(root: Path) -> None:
    own = root / "own"
    put(own / "good.wav", clip(form="WAV"))
    (own / "again").symlink_to(own)
    (own / "gone.wav").symlink_to("nowhere")
    (own / "itself.wav").symlink_to("itself.wav")
    os.mkfifo(own / "pipe.wav")
    (Path(os.fsdecode(os.fsencode(own) + b"/caf\xe9.wav"))).write_bytes(clip(form="WAV"))
    rows, rejected = clips(folders=["own"]).list_utterances()
    assert [row.path for row in rows] == ["own/good.wav"]
    assert {row.path: row.reason.partition(":")[0] for row in rejected} == {
        "own/gone.wav": "missing file",
        "own/itself.wav": "missing file",
        "own/pipe.wav": "no regular file",
        r"own/caf\xe9.wav": "wrong name",
    }
    clips(folders=["own"]).scan()


def test_recordings_under_two_paths_are_counted(root: Path) -> None:
    for name in ("a.wav", "deep/a.wav", "b.wav"):
        put(root / "own" / name, clip(form="WAV"))
    put(root / "own/c.wav", clip(form="WAV", seed=9))
    counts = count_rows(*clips(folders=["own"]).list_utterances())
    assert (counts["found"], counts["kept"], counts["repeated"]) == (4, 4, 2)


def test_a_folder_that_cannot_be_read_stops_the_scan(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_folders(monkeypatch, "deep")
    with refused(str(root / "musan/noise/free-sound/deep"), "Permission denied"):
        clips().scan()


def test_too_short_and_too_long_clips_are_rejected(root: Path) -> None:
    put(root / "own/short.wav", clip(form="WAV", seconds=0.03))
    put(root / "own/long.wav", clip(form="WAV", rate=8_000, seconds=3.0))
    put(root / "own/edge.wav", clip(form="WAV", seconds=0.5))
    rows, rejected = clips(folders=["own"], min_seconds=0.5, max_seconds=2).list_utterances()
    assert [row.id for row in rows] == ["edge"]
    reasons = {reject.id: reject.reason for reject in rejected}
    assert reasons.keys() == {"long", "short"}
    assert reasons["long"].startswith("too long: 3.00 s")
    assert reasons["short"].startswith("too short: 0.03 s")


def test_files_of_one_name_have_different_ids(root: Path) -> None:
    for room in ("smallroom", "largeroom"):
        put(root / f"rooms/{room}/Room001-00001.wav", clip(form="WAV"))
    names = accepted_ids(folders=["rooms"])
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"Room001-00001-[0-9a-f]{8}", name) for name in names)


def test_broken_files_are_rejected_and_silence_is_not(root: Path) -> None:
    suffix, data, reason = BROKEN["half a WAV"]
    put(root / f"own/cut{suffix}", data)
    put(root / "own/quiet.flac", clip(level=0.0))
    put(root / "own/notes.txt", b"not looked at")
    rows, rejected = clips(folders=["own"]).list_utterances()
    assert [row.id for row in rows] == ["quiet"]
    assert [row.reason.partition(":")[0] for row in rejected] == [reason]


@pytest.mark.parametrize(
    ("changed", "subject", "parts"),
    [
        ({"folder": ["x"]}, "folder", "'folders'"),
        ({"folders": ["musan/nosie"]}, "musan/nosie", "'musan/noise'"),
        ({"folders": ["mussan/noise"]}, "mussan/noise", "components.corpus fetch"),
        ({"folders": []}, "some", "'sounds'"),
        ({"only": "*.mp4"}, "some", "'only'"),
        (
            {
                "folders": ["musan/noise/free-sound"],
                "only": "ANNOTATIONS",
                "annotations": "ANNOTATIONS",
            },
            "some",
            "musan/noise/free-sound",
        ),
    ],
)
def test_a_wrong_setting_is_named(changed: dict, subject: str, parts: str, root: Path) -> None:
    with refused(subject, *parts.split()):
        clips(**changed).scan()


@pytest.mark.parametrize("role", ["train", "dev", "test"])
def test_clips_are_refused_in_a_role_of_speech(role: str, root: Path) -> None:
    with refused("some", "'table'", f"'{role}'"):
        clips(role)


def test_rooms_are_in_the_role_noise_only(root: Path) -> None:
    assert len(clips("noise", rooms=True).list_utterances()[0]) == 3
    with refused("some", "rooms", "'nonspeech-train'"):
        clips("nonspeech-train", rooms=True)


def test_real_non_speech_is_accepted(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every class of the README that stands beside the recordings, with its number of clips."""
    monkeypatch.setenv("LIBRETTO_ROOT_SOUNDS", str(recordings))
    match = re.search(r"Classes \(\d+\): (.*)\.", (recordings / "README.md").read_text())
    assert match
    classes = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", match[1])}
    rows, rejected = clips("nonspeech-test", folders=["nonspeech"]).list_utterances()
    assert not rejected
    assert Counter(row.path.split("/")[1] for row in rows) == classes


def test_a_synthetic_room_is_a_decaying_response(work: Path) -> None:
    settings = {
        "kind": "synthetic",
        "rooms": True,
        "clips": 5,
        "seed": 1,
        "seconds": [0.3, 0.3],
        "level_db": [-3, -3],
    }
    source = build_source("rooms", "noise", settings)
    rows, _ = source.list_utterances()
    for row in rows:
        response, rate = soundfile.read(source.locate(row.path))
        assert len(response) == 0.3 * rate
        assert np.abs(response).argmax() == 0
        energy = np.cumsum(response[1:] ** 2)
        assert energy[-1] == pytest.approx(0.5 * response[0] ** 2, rel=0.05)
        assert energy[len(energy) // 2] > 0.9 * energy[-1]  # 30 of 60 dB
    with refused("rooms", "nonspeech-train"):
        build_source("rooms", "nonspeech-train", settings)
