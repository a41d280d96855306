"""Augmented training audio: stored and live frames agree, and all other roles stay as recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.audio.sound import encode_flac
from components.config.params import read_params
from components.features import extract
from components.features.waveforms import AugmentedView, ShardClip, build_augmentation, role_augment
from components.runtime.artifact import empty_folder, read_record, recorded_digests, write_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import check_names
from components.shards.index import INDEX, write_index
from components.shards.reader import list_utterances, read_audio, read_audio_part
from components.shards.writer import TarMember, write_tar
from tests import world as tones
from tests.errors import refused

OUT, SHARDS = Path("data/features"), Path("data/shards")
NOISE = SHARDS / "noise"
ALL = {
    "speed": [0.8, 1.0, 1.25],
    "level_db": [-9, 3],
    "noise.probability": 0.7,
    "rooms.probability": 0.5,
}


def put_noise(seed: int = 1, rooms: bool = True) -> None:
    """The shards of the role noise: clips shorter and longer than speech, and a source of rooms."""
    out, random = empty_folder(NOISE), np.random.default_rng(seed)
    tail = np.exp(-np.arange(3000) / 300) * random.standard_normal(3000) * 0.2
    waveforms = {
        "hum": [random.uniform(-0.3, 0.3, count) for count in (900, 60_000)],
        "hall": [np.r_[np.zeros(40), 0.9, tail]],
    }
    for source, clips in waveforms.items():
        (out / source).mkdir()
        samples = [
            TarMember(f"{source}-{n}", encode_flac(waveform), len(waveform), 0, "", "", "")
            for n, waveform in enumerate(clips)
        ]
        write_index(
            out / source / INDEX, write_tar(out / source / f"{source}-000000.tar", samples, "flac")
        )
    write_record(
        out, "shards", parameters=None, inputs={}, **({"rooms": ["hall"]} if rooms else {})
    )


def augment(**changed: Any) -> None:
    tones.change(
        "params.yaml", {f"features.augment.{key}": value for key, value in changed.items()}
    )


@pytest.fixture
def drawn(world: Path) -> Path:
    """A workspace with noise, everything on and three views; no features of the train roles yet."""
    put_noise()
    augment(**ALL, views=3)
    return world


def run(*roles: str, mode: str = "cached") -> None:
    tones.change("params.yaml", {"features.mode": mode})
    for role in roles:
        tones.run("features", role)


def test_every_view_has_every_utterance_and_equals_live_frames(drawn: Path) -> None:
    run("train", "nonspeech-train")
    cached = {role: tones.frame_source(role) for role in ("train", "nonspeech-train")}
    stored = {
        role: [source.frames(source.utterances, epoch) for epoch in range(4)]
        for role, source in cached.items()
    }
    counts = {
        role: [[source.num_frames(item, epoch) for item in source.utterances] for epoch in range(4)]
        for role, source in cached.items()
    }
    for role, source in cached.items():
        expected = [
            (item.source, item.id, item.num_samples) for item in list_utterances(SHARDS / role)
        ]
        for below in ("", "view-1", "view-2"):
            assert [
                (item.source, item.id, item.num_samples)
                for item in list_utterances(OUT / role, below)
            ] == expected
        assert len(list((OUT / role).rglob("*.tar"))) == 3 * len(
            list((SHARDS / role).rglob("*.tar"))
        )
        assert recorded_digests(OUT / role) == {
            name: digest
            for name, digest in folder_digests(OUT / role).items()
            if name != "inputs.json"
        }
        assert [[len(tensor) for tensor in frames] for frames in stored[role]] == counts[role]
        assert all(
            torch.equal(*pair) for pair in zip(stored[role][0], stored[role][3], strict=True)
        )
        assert not any(
            torch.equal(*pair) for pair in zip(stored[role][0], stored[role][1], strict=True)
        )
        assert source.max_stretch == pytest.approx(1.25)
    run("train", "nonspeech-train", mode="live")
    for role in cached:
        live = tones.frame_source(role)
        for epoch in (2, 0, 1):
            backwards = live.frames(live.utterances[::-1], epoch)[::-1]
            for item, frames, expected in zip(
                live.utterances, backwards, stored[role][epoch], strict=True
            ):
                assert len(frames) == live.num_frames(item, epoch)
                torch.testing.assert_close(frames, expected, rtol=1e-3, atol=1e-4)
                assert live.duration_s(item, epoch) == cached[role].duration_s(item, epoch)
        assert [live.num_frames(item, 3) for item in live.utterances] != counts[role][3]


def test_other_roles_and_training_with_all_off_stay_as_recorded(world: Path) -> None:
    before = {role: folder_digests(OUT / role) for role in tones.LAYOUT}
    put_noise()
    augment(**ALL, views=2)
    run("dev", "test", "nonspeech-test")
    for role in ("dev", "test", "nonspeech-test"):
        assert folder_digests(OUT / role) == before[role]
    off = {
        "speed": [1.0],
        "level_db": [0, 0],
        "noise.probability": 0,
        "rooms.probability": 0,
        "views": 1,
        "seed": 9,
    }
    augment(**off)
    run("train", "nonspeech-train")
    for role in ("train", "nonspeech-train"):
        assert folder_digests(OUT / role) == before[role]


def test_without_an_epoch_live_frames_are_clean_and_stored_ones_are_refused(drawn: Path) -> None:
    clean = tones.frame_source("train")
    expected = clean.frames(clean.utterances)
    run("train", mode="live")
    live = tones.frame_source("train")
    for frames, clean_frames in zip(live.frames(live.utterances), expected, strict=True):
        torch.testing.assert_close(frames, clean_frames, rtol=1e-3, atol=1e-4)
    run("train")
    cached = tones.frame_source("train")
    with refused("data/features/train", "features.mode"):
        cached.frames(cached.utterances)


def test_finished_views_come_from_the_work_cache(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment(views=2)
    run("train")
    computed: list[tuple[str, int]] = []
    compute = extract.compute_frames
    monkeypatch.setattr(
        "components.features.extract.compute_frames",
        lambda job, utterances: computed.append((job.name, job.view)) or compute(job, utterances),
    )
    augment(views=3)
    run("train")
    assert computed == [(f"tones-00000{shard}.tar", 2) for shard in range(3)]
    augment(seed=2, views=1)
    run("train")
    assert len(computed) == 6


def test_other_cuts_into_shards_draw_the_same(drawn: Path) -> None:
    run("train", mode="live")
    source = tones.frame_source("train")
    before = source.frames(source.utterances, 5)
    tones.write_shards("train", {"tones": [2, 10]})
    run("train", mode="live")
    again = tones.frame_source("train")
    for one, other in zip(again.frames(again.utterances, 5), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_other_noise_changes_the_key_and_stored_frames_are_refused(drawn: Path) -> None:
    run("train")
    key = read_record(OUT / "train")["key"]
    put_noise(seed=2)
    with refused("data/features/train", "data/shards/noise"):
        tones.frame_source("train")
    run("train")
    assert read_record(OUT / "train")["key"] != key
    put_noise(seed=2, rooms=False)
    with refused("data/features/train", "data/shards/noise"):
        tones.frame_source("train")


def test_rooms_are_never_added_and_noise_is_no_room(drawn: Path) -> None:
    augmentation = build_augmentation(read_params().features.augment, NOISE)
    assert [
        clip.utterance.source for clip in augmentation.rooms if isinstance(clip, ShardClip)
    ] == ["hall"]
    assert [
        clip.utterance.source for clip in augmentation.noise if isinstance(clip, ShardClip)
    ] == [
        "hum",
        "hum",
    ]


def test_non_speech_changes_by_speed_and_level_only(drawn: Path) -> None:
    settings = read_params().features.augment
    of = {role: role_augment(settings, role) for role in (*tones.LAYOUT, "noise")}
    assert [role for role in of if of[role]] == ["train", "nonspeech-train"]
    assert of["train"] == settings
    nonspeech = of["nonspeech-train"]
    assert nonspeech is not None
    assert (nonspeech.noise.probability, nonspeech.rooms.probability) == (0, 0)
    item = list_utterances(SHARDS / "nonspeech-train")[0]
    for view in range(8):
        waveform, length = (
            AugmentedView(build_augmentation(nonspeech, NOISE), view).waveform(item),
            AugmentedView(build_augmentation(nonspeech, NOISE), view).num_samples(item),
        )
        assert len(waveform) == length
        if length == item.num_samples:
            ratio = waveform[read_audio(item) != 0] / read_audio(item)[read_audio(item) != 0]
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("mode", ["cached", "live"])
@pytest.mark.parametrize("kind", ["noise", "rooms"])
def test_missing_noise_is_refused_before_any_work(
    kind: str, mode: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the catalogue, before every stage; and by the shards, if all clips of a source were
    rejected.
    """
    write_record(empty_folder(NOISE), "shards", parameters=None, inputs={})
    augment(**{f"{kind}.probability": 0.5})
    parameter = f"features.augment.{kind}"
    tones.change(
        "catalogue/corpus.yaml",
        {"tones.noise": {"other": {"kind": "clips", "rooms": kind == "noise"}}},
    )
    with refused(None, parameter):
        check_names(read_params())
    tones.change(
        "catalogue/corpus.yaml",
        {"tones.noise": {"right": {"kind": "clips", "rooms": kind == "rooms"}}},
    )
    check_names(read_params())
    monkeypatch.setattr(
        "components.features.extract.extract_shard", lambda job: pytest.fail("computed")
    )
    with refused(None, parameter):
        run("train", mode=mode)


def test_an_utterance_that_speed_leaves_without_a_frame_stops_before_the_first_epoch(
    world: Path,
) -> None:
    out = empty_folder(SHARDS / "train")
    (out / "clicks").mkdir()
    click = np.full(330, 0.1, np.float32)
    write_index(
        out / "clicks" / INDEX,
        write_tar(
            out / "clicks/c.tar",
            [TarMember("click", encode_flac(click), 330, 0, "", "", "")],
            "flac",
        ),
    )
    write_record(out, "shards", parameters=None, inputs={})
    augment(speed=[1.0, 1.25])
    run("train", mode="live")
    with refused("click", "264", "320", "features.augment.speed"):
        tones.frame_source("train")


@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 60_000), (31_234, 5_000), (59_999, 1)])
def test_an_excerpt_equals_that_part_of_the_recording(start: int, count: int, drawn: Path) -> None:
    item = next(item for item in list_utterances(NOISE) if item.num_samples == 60_000)
    assert np.array_equal(
        read_audio_part(item, start, count), read_audio(item)[start : start + count]
    )
    with refused("hum-1", "hum-000000.tar"):
        read_audio_part(item, start, 60_001 - start)
