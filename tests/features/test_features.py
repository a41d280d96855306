"""The features stage: what it stores, what it refuses, and what readers refuse."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.audio.sound import encode_flac
from components.features import extract
from components.features.frames import FrameSource
from components.model.encoders.encoder import SpeechEncoder
from components.runtime.artifact import empty_folder, read_record, recorded_digests, write_record
from components.runtime.hashing import file_digest, folder_digests
from components.shards.index import INDEX, read_index, write_index
from components.shards.reader import IndexedUtterance, list_utterances, read_audio, read_frames
from components.shards.writer import TarMember, write_tar
from tests import world as tones
from tests.checkpoints import ENCODERS, PARAKEET, save_encoder
from tests.errors import refused

OUT, SHARDS = Path("data/features"), Path("data/shards")
WIDTH = PARAKEET["hidden_size"]


def stored(role: str) -> dict[str, str]:
    """Digests of all files of a role's features."""
    return folder_digests(OUT / role)


def computed_again(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environment: str
) -> dict[str, str]:
    """The same after a run with an empty work cache."""
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / f"work {len(list(tmp_path.iterdir()))}"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tones.run("features", role)
    return stored(role)


def test_every_shard_of_audio_has_a_tar_of_frames(world: Path) -> None:
    for role, layout in tones.LAYOUT.items():
        audios, features = list_utterances(SHARDS / role), list_utterances(OUT / role)
        assert [item.id for item in features] == [item.id for item in audios]
        assert {path.relative_to(OUT) for path in OUT.rglob("*.tar")} == {
            path.relative_to(SHARDS) for path in SHARDS.rglob("*.tar")
        }
        assert len(features) == sum(map(sum, layout.values()))
        for sound, item in zip(audios, features, strict=True):
            frames = read_frames(item)
            assert frames.dtype == np.float16
            assert frames.shape == (item.entry.frames, WIDTH)
            assert item.entry.frames == pytest.approx(sound.duration_s * 25, abs=1)
            columns = (item.num_samples, item.text, item.speaker, item.entry.shard)
            assert columns == (
                sound.num_samples,
                sound.text,
                sound.speaker,
                sound.entry.shard,
            )
    with tarfile.open(OUT / "train/tones/tones-000000.tar") as archive:
        assert sorted(archive.getnames()[:2]) == ["tones-000.json", "tones-000.npy"]


def test_stored_frames_are_those_of_the_encoder(world: Path) -> None:
    encoder = SpeechEncoder(tones.ENCODER)
    for sound, item in zip(
        list_utterances(SHARDS / "train"), list_utterances(OUT / "train"), strict=True
    ):
        frames = encoder([read_audio(sound)])[0].numpy()
        np.testing.assert_allclose(
            read_frames(item).astype(np.float32), frames, rtol=1e-3, atol=1e-4
        )


def test_two_runs_give_the_same_bytes_whatever_the_batches_before(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored("train")
    assert computed_again("train", tmp_path, monkeypatch) == before
    assert computed_again("test", tmp_path, monkeypatch) == stored("test")


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored("train")
    assert computed_again("train", tmp_path, monkeypatch, LIBRETTO_WORKERS="2") == before


def test_finished_shards_are_not_computed_again(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.run("features", "train")
    before = stored("train")
    calls: list[str] = []
    compute = extract.compute_frames

    def compute_and_note(
        job: extract.FeatureJob, utterances: list[IndexedUtterance]
    ) -> dict[str, np.ndarray]:
        calls.append(job.name)
        return compute(job, utterances)

    monkeypatch.setattr(extract, "compute_frames", compute_and_note)
    tones.run("features", "train")
    assert stored("train") == before
    assert calls == []
    layout = {"tones": tones.LAYOUT["train"]["tones"], "added": [2]}
    tones.write_shards("train", layout)
    tones.run("features", "train")
    assert calls == ["added-000000.tar"]


@pytest.mark.parametrize(
    ("value", "printed"), [(float("nan"), "nan"), (float("inf"), "inf"), (7.0e4, "70000")]
)
def test_a_value_that_cannot_be_stored_names_its_utterance(
    value: float, printed: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SpeechEncoder.__call__
    num_samples = next(
        item for item in list_utterances(SHARDS / "train") if item.id == "tones-006"
    ).num_samples

    def call(self: SpeechEncoder, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
        results = [tensor.clone() for tensor in original(self, waveforms)]
        for waveform, frames in zip(waveforms, results, strict=True):
            if len(waveform) == num_samples:
                frames[1, 2] = value
        return results

    monkeypatch.setattr(SpeechEncoder, "__call__", call)
    with refused("tones-006", printed, "numerics.dtype"):
        computed_again("train", tmp_path, monkeypatch)
    assert not (OUT / "train/inputs.json").exists()
    tones.change(
        "catalogue/encoder.yaml",
        {"tiny.numerics.max_abs": 1e5, "tiny.numerics.features": "float32"},
    )
    if np.isfinite(value):
        computed_again("train", tmp_path, monkeypatch)
        item = next(item for item in list_utterances(OUT / "train") if item.id == "tones-006")
        assert read_frames(item)[1, 2] == np.float32(value)


def test_a_broken_recording_stops_with_its_utterance(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = next(item for item in list_utterances(SHARDS / "train") if item.id == "tones-006")
    tar = item.folder / item.entry.shard
    data = bytearray(tar.read_bytes())
    start = item.entry.offset + item.entry.size // 2
    data[start : start + 400] = bytes(400)
    tar.write_bytes(data)
    write_record(SHARDS / "train", "shards", parameters=None, inputs={})
    with refused("tones-006", "tones-000001.tar"):
        computed_again("train", tmp_path, monkeypatch)
    assert not (OUT / "train/inputs.json").exists()


def test_a_tar_that_ends_too_early_stops_with_its_utterance(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = next(item for item in list_utterances(SHARDS / "train") if item.id == "tones-006")
    tar = item.folder / item.entry.shard
    tar.write_bytes(tar.read_bytes()[: item.entry.offset + 100])
    write_record(SHARDS / "train", "shards", parameters=None, inputs={})
    with refused(None, "tones-000001.tar", "tones-00"):
        computed_again("train", tmp_path, monkeypatch)


@pytest.mark.parametrize("changed", ["encoder", "shards"])
def test_a_reader_refuses_frames_of_another_encoder_or_other_shards(
    changed: str, world: Path
) -> None:
    tones.frame_source("train")
    if changed == "encoder":
        save_encoder(tones.ENCODER, seed=2)
    else:
        tones.write_shards("train", {"tones": [5, 4]})
    with refused("data/features/train", changed):
        tones.frame_source("train")


def test_an_incomplete_folder_is_refused(world: Path) -> None:
    (OUT / "train/inputs.json").unlink()
    with refused("data/features/train"):
        tones.frame_source("train")


def test_live_mode_stores_only_its_record_and_loads_no_encoder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cached = read_record(OUT / "train")
    tones.change("params.yaml", {"features.mode": "live"})

    def never(self: SpeechEncoder, *arguments: object) -> None:
        raise AssertionError("the encoder is not needed")

    monkeypatch.setattr(SpeechEncoder, "__init__", never)
    files = computed_again("train", tmp_path, monkeypatch)
    assert set(files) == {"inputs.json"}
    record = read_record(OUT / "train")
    assert "live" in record["empty"]
    assert record["key"] == cached["key"]
    assert "features@train" in caplog.text


def encode_with(family: str, **numerics: object) -> None:
    """Replaces the encoder by one of another family, with the numerics of such an entry."""
    save_encoder(tones.ENCODER, family)
    numerics = {
        "batching": "equal-length" if family.endswith("group-norm") else "padded",
        **numerics,
    }
    tones.change(
        "catalogue/encoder.yaml",
        {f"tiny.numerics.{name}": value for name, value in numerics.items()},
    )


@pytest.mark.parametrize(
    ("family", "padding"),
    [*((family, "window") for family in ENCODERS), ("whisper", "none"), ("whisper-ast", "none")],
)
def test_live_and_cached_frames_agree_to_half_precision(
    family: str, padding: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family != "parakeet":
        encode_with(family, padding=padding)
        computed_again("train", tmp_path, monkeypatch)
    cached = tones.frame_source("train")
    stored_frames = cached.frames(cached.utterances)
    tones.change("params.yaml", {"features.mode": "live"})
    tones.run("features", "train")
    live = tones.frame_source("train")
    assert [item.id for item in live.utterances] == [item.id for item in cached.utterances]
    for items in (
        live.utterances,
        live.utterances[::-1],
        [*live.utterances[3:5], live.utterances[3]],
    ):
        for item, frames in zip(items, live.frames(items), strict=True):
            expected = stored_frames[[other.id for other in cached.utterances].index(item.id)]
            assert frames.dtype == expected.dtype == torch.float32
            torch.testing.assert_close(frames, expected, rtol=1e-3, atol=1e-4)
    assert live.frames([]) == cached.frames([]) == []


def test_an_encoder_that_forbids_padding_refuses_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_with("hubert-group-norm", batching="padded")
    with refused(str(tones.ENCODER), "numerics.batching"):
        computed_again("train", tmp_path, monkeypatch)


def last_norm(family: str) -> tuple[Path, str]:
    """File and name of the norm that sets the magnitude of the frames: after the last layer, or the
    last one in it.
    """
    file = tones.ENCODER / (
        "speech/model.safetensors" if family == "whisper-ast" else "model.safetensors"
    )
    inside = {"parakeet": "layers.1.norm_out", "ast": "layernorm"}.get(family, "encoder.layer_norm")
    name_end = "layers.1.final_layer_norm" if family.endswith("group-norm") else inside
    names = [
        name
        for name in load_file(file)
        if re.search(rf"(^|\.){re.escape(name_end)}\.weight$", name) and "classifier" not in name
    ]
    assert len(names) == 1, names
    return file, names[0]


@pytest.mark.parametrize("family", [family for family in ENCODERS if family != "fbank"])
def test_an_overflow_in_half_precision_is_refused_and_its_hint_works(
    family: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_with(family, dtype="float16")
    computed_again("dev", tmp_path, monkeypatch)
    assert {read_frames(item).dtype for item in list_utterances(OUT / "dev")} == {
        np.dtype(np.float16)
    }
    file, name = last_norm(family)
    weights = load_file(file)
    save_file({**weights, name: weights[name] * 6e4}, file, metadata={"format": "pt"})
    write_record(tones.ENCODER, "encoder", parameters=None, inputs={})
    with refused(None, "tones-dev-00", "numerics.dtype", "max_abs"):
        computed_again("dev", tmp_path, monkeypatch)
    hint = {"dtype": "float32", "features": "float32", "max_abs": 1e6}
    tones.change(
        "catalogue/encoder.yaml",
        {f"tiny.numerics.{name}": value for name, value in hint.items()},
    )
    computed_again("dev", tmp_path, monkeypatch)
    assert {read_frames(item).dtype for item in list_utterances(OUT / "dev")} == {
        np.dtype(np.float32)
    }
    assert (
        max(float(np.abs(read_frames(item)).max()) for item in list_utterances(OUT / "dev"))
        > 65_504
    )


def test_log_mel_over_the_limit_of_its_entry_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is normalised, so half precision does not overflow; only the entry's own limit can be
    exceeded.
    """
    encode_with("fbank", max_abs=0.5)
    with refused(None, "tones-dev-00", "0.5"):
        computed_again("dev", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("family", "mode"),
    [*((family, "cached") for family in ENCODERS), ("parakeet", "live"), ("whisper", "live")],
)
def test_a_clip_without_a_frame_stops_before_any_work(
    family: str, mode: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = empty_folder(SHARDS / "dev")
    (out / "clicks").mkdir()
    encode_with(family)
    least = 320 if family in ("parakeet", "fbank") else 400
    samples = {"long": 16_000, "click": least - 1}
    written = [
        TarMember(name, encode_flac(np.full(count, 0.1, np.float32)), count, 0, "", "", "")
        for name, count in samples.items()
    ]
    write_index(
        out / "clicks" / INDEX, write_tar(out / "clicks/clicks-000000.tar", written, "flac")
    )
    write_record(out, "shards", parameters=None, inputs={})
    tones.change("params.yaml", {"features.mode": mode})
    monkeypatch.setattr(SpeechEncoder, "__call__", lambda *arguments: pytest.fail("computed"))
    with refused("click", str(least - 1), str(least)):
        computed_again("dev", tmp_path, monkeypatch)
        source = tones.frame_source("dev")
        source.frames(source.utterances)


@pytest.mark.parametrize(("padding", "largest"), [("window", 1), ("none", 5)])
def test_padding_of_the_encoder_counts_in_a_batch(
    padding: str, largest: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_with("whisper", padding=padding)
    tones.change("params.yaml", {"features.batch_seconds": 50})
    sizes: list[int] = []
    original = SpeechEncoder.__call__

    def call(self: SpeechEncoder, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
        sizes.append(len(waveforms))
        return original(self, waveforms)

    monkeypatch.setattr(SpeechEncoder, "__call__", call)
    computed_again("train", tmp_path, monkeypatch)
    assert max(sizes) == largest
    assert sum(sizes) == 12


@pytest.mark.parametrize("mode", ["cached", "live"])
@pytest.mark.parametrize(
    ("family", "padding", "seconds"),
    [("whisper", "full-window", 30), ("whisper", "window", 0), ("whisper-ast", "full-window", 30)],
)
def test_frames_of_a_full_window_last_as_long_as_it(
    family: str,
    padding: str,
    seconds: float,
    mode: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode_with(family, padding=padding)
    tones.change("params.yaml", {"features.mode": mode})
    computed_again("dev", tmp_path, monkeypatch)
    source = tones.frame_source("dev")
    for utterance, frames in zip(source.utterances, source.frames(source.utterances), strict=True):
        assert source.frame_duration_s(utterance) == (seconds or utterance.duration_s)
        assert len(frames) / 50 == pytest.approx(source.frame_duration_s(utterance), abs=0.02)


def keys() -> dict[str, object]:
    return {role: read_record(OUT / role)["key"] for role in ("train", "dev")}


def test_the_key_depends_on_what_shapes_the_frames_only(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys()
    assert before["train"] == before["dev"]

    def key() -> object:
        tones.run("features", "dev")
        return read_record(OUT / "dev")["key"]

    monkeypatch.setenv("LIBRETTO_WORKERS", "3")
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu:0")
    assert key() == before["dev"]
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    keys_seen = [json.dumps(before["dev"], sort_keys=True)]
    for path, change in [
        ("params.yaml", {"features.layer": 1}),
        ("params.yaml", {"features.batch_seconds": 2}),
        ("catalogue/encoder.yaml", {"tiny.numerics.features": "float32"}),
    ]:
        tones.change(path, change)
        keys_seen.append(json.dumps(key(), sort_keys=True))
    save_encoder(tones.ENCODER, seed=2)
    keys_seen.append(json.dumps(key(), sort_keys=True))
    assert len(set(keys_seen)) == len(keys_seen)


def test_another_layer_has_other_frames(world: Path) -> None:
    last = {item.id: read_frames(item) for item in list_utterances(OUT / "dev")}
    for layer in (0, 1, 2):
        tones.change("params.yaml", {"features.layer": layer})
        tones.run("features", "dev")
        frames = {item.id: read_frames(item) for item in list_utterances(OUT / "dev")}
        assert {name: values.shape for name, values in frames.items()} == {
            name: values.shape for name, values in last.items()
        }
        same = all(np.allclose(frames[name], last[name], atol=1e-3) for name in last)
        assert same == (layer == 2)


def test_a_clip_shorter_than_a_frame_stops_with_its_name() -> None:
    from components.config.entries import EncoderNumerics

    with refused("short"):
        extract.stored_frames(
            torch.zeros(0, 4),
            "short",
            EncoderNumerics("float32", "float16", "padded"),
            "last",
        )


def test_a_source_without_utterances_has_an_empty_index(world: Path) -> None:
    empty_folder(SHARDS / "noise")
    (SHARDS / "noise/none").mkdir()
    write_index(SHARDS / "noise/none" / INDEX, [])
    write_record(SHARDS / "noise", "shards", parameters=None, inputs={})
    tones.run("features", "noise")
    assert read_index(OUT / "noise/none" / INDEX) == []
    assert FrameSource("noise", tones.ENCODER, "cpu").utterances == []


def test_the_record_has_the_digest_of_every_file(world: Path) -> None:
    for role in tones.LAYOUT:
        assert {
            name: file_digest(OUT / role / name) for name in recorded_digests(OUT / role)
        } == recorded_digests(OUT / role)
        assert set(recorded_digests(OUT / role)) == set(stored(role)) - {"inputs.json"}
